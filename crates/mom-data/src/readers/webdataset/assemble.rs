//! From the members of one key to a sample.

use std::collections::HashMap;

use serde_json::Value;

use super::contents::Member;
use super::group::{self, Found, Group, Kind};
use super::links::Links;
use super::sidecar::{self, Step};
use super::source::Source;
use crate::Result;
use crate::readers::{
    Outcome, Part, PartOrder, Place, ReadOptions, Sample, Skip, SkipReason, escaped, json, printable,
};
use crate::vocabulary::Modality;

/// Larger sidecars are not parsed.
const MAX_SIDECAR_BYTES: u64 = 64 << 20;

/// Forms the samples of one archive.
pub(super) struct Assembler<'a> {
    pub(super) source: Source,
    pub(super) members: &'a [Member],
    pub(super) links: Links,
    /// Name of the archive.
    file: &'a str,
    options: &'a ReadOptions,
}

/// A member of the sample at hand.
pub(super) struct Named {
    pub index: usize,
    pub ending: String,
    pub kind: Kind,
}

/// What became of the members of a sample.
struct Formed {
    order: PartOrder,
    parts: Vec<Part>,
    group: Option<String>,
    /// By member.
    used: Vec<bool>,
}

/// The sidecar of a sample.
struct Sidecar {
    /// Place among the members.
    at: usize,
    value: Result<Value, Skip>,
}

impl<'a> Assembler<'a> {
    pub fn new(source: Source, members: &'a [Member], file: &'a str, options: &'a ReadOptions) -> Self {
        Self { source, members, links: Links::new(members), file, options }
    }

    /// What becomes of something that was found.
    pub fn outcomes(&mut self, found: &Found) -> Result<Vec<Outcome>> {
        match found {
            Found::Item { index, ending } => Ok(vec![self.ignored(*index, (*ending).to_owned())]),
            Found::Group(group) => self.sample(group),
        }
    }

    fn ignored(&self, index: usize, ending: String) -> Outcome {
        Outcome::Ignored { ending, name: format!("{}/{}", self.file, escaped(&self.members[index].name)) }
    }

    fn sample(&mut self, group: &Group) -> Result<Vec<Outcome>> {
        let named: Vec<Named> = group
            .members
            .iter()
            .map(|&index| {
                let ending = group::ending(&self.members[index]);
                Named { index, kind: Kind::of(&ending), ending }
            })
            .collect();
        let formed = if named.iter().any(|member| member.kind != Kind::Other) {
            Some(self.form(&named)?)
        } else {
            // Nothing of it is ever read: there is no sample to be counted.
            None
        };
        let used = match &formed {
            None => vec![false; named.len()],
            Some(Ok(formed)) => formed.used.clone(),
            Some(Err(_)) => named.iter().map(|member| member.kind != Kind::Other).collect(),
        };
        let mut items = Vec::new();
        let mut outcomes = Vec::new();
        for (member, used) in named.into_iter().zip(used) {
            if used { items.push(member.ending) } else { outcomes.push(self.ignored(member.index, member.ending)) }
        }
        let own_key = escaped(&group.key);
        let key = match group.again {
            Some(archive) => format!("{own_key} (archive {})", archive + 1),
            None => own_key.clone(),
        };
        let place = Place { file: self.file.to_owned(), row: None };
        match formed {
            None => {}
            Some(Ok(Formed { order, parts, group: named_group, .. })) => {
                // Samples of one key may be the same sample twice: they stay on one side of a split.
                let group = named_group.or_else(|| group.again.map(|_| own_key));
                outcomes.insert(0, Outcome::Sample(Sample { key, place, group, order, parts, items }));
            }
            Some(Err(skip)) => outcomes.insert(0, Outcome::Skipped { key, place, items, skip }),
        }
        Ok(outcomes)
    }

    /// The inner error says why the sample cannot be used.
    fn form(&mut self, named: &[Named]) -> Result<Result<Formed, Skip>> {
        let mut seen = HashMap::new();
        for member in named.iter().filter(|member| member.kind != Kind::Other) {
            if seen.insert(&member.ending[..], ()).is_some() {
                return Ok(Err(duplicate(&format!("{} twice", member.ending))));
            }
        }
        let sidecar = self.sidecar(named)?;
        if let Some(Sidecar { at, value: Ok(value) }) = &sidecar {
            let is_part = |member: &Named| !matches!(member.kind, Kind::Other | Kind::Sidecar);
            let has = |name: &str| named.iter().any(|member| is_part(member) && member.ending == name);
            match sidecar::sequence(value, &has, !named.iter().any(is_part)) {
                Err(skip) => return Ok(Err(skip)),
                Ok(Some(steps)) => return self.fixed(named, *at, value, steps),
                Ok(None) => {}
            }
        }
        self.free(named, sidecar)
    }

    /// `KEY.json`, or else the only member whose ending ends so.
    fn sidecar(&mut self, named: &[Named]) -> Result<Option<Sidecar>> {
        let mut all = (0..named.len()).filter(|&at| named[at].kind == Kind::Sidecar);
        let at = match named.iter().position(|member| member.ending == "json") {
            Some(at) => at,
            None => match (all.next(), all.next()) {
                (Some(at), None) => at,
                _ => return Ok(None),
            },
        };
        let value = match self.bytes(named[at].index, MAX_SIDECAR_BYTES)? {
            Err(skip) => Err(skip),
            Ok(bytes) => {
                let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
                serde_json::from_slice(bytes).map_err(|error| {
                    let detail = format!("{}: {}", named[at].ending, printable(&error.to_string(), 120));
                    Skip::new(SkipReason::BrokenRecord, detail)
                })
            }
        };
        Ok(Some(Sidecar { at, value }))
    }

    /// An interleaved document.
    fn fixed(
        &mut self,
        named: &[Named],
        sidecar: usize,
        value: &Value,
        steps: Vec<Step>,
    ) -> Result<Result<Formed, Skip>> {
        let mut used = vec![false; named.len()];
        used[sidecar] = true;
        let mut loaded: HashMap<usize, Part> = HashMap::new();
        let mut parts = Vec::new();
        for step in steps {
            let name = match step {
                Step::Text(text) => {
                    parts.push(Part::Text(text));
                    continue;
                }
                Step::Member(name) => name,
            };
            let is_part = |kind| !matches!(kind, Kind::Other | Kind::Sidecar);
            let Some(at) = named.iter().position(|member| is_part(member.kind) && member.ending == name) else {
                let detail = format!("part {}, which the sidecar names", printable(&name, 80));
                return Ok(Err(Skip::new(SkipReason::MissingFile, detail)));
            };
            let part = match loaded.get(&at) {
                // Bytes are shared; copies of a text or an array could fill the memory.
                Some(part @ (Part::Image(_) | Part::Audio(_))) => part.clone(),
                Some(_) => return Ok(Err(duplicate(&format!("{name} is shown twice")))),
                None => match self.part(&named[at])? {
                    Ok(part) => part,
                    Err(skip) => return Ok(Err(skip)),
                },
            };
            if matches!(part, Part::Image(_) | Part::Audio(_)) {
                loaded.entry(at).or_insert_with(|| part.clone());
            } else {
                loaded.insert(at, Part::Text(String::new()));
            }
            used[at] = true;
            parts.push(part);
        }
        let group = value.as_object().and_then(|record| json::group(record, self.options));
        Ok(Ok(Formed { order: PartOrder::Fixed, parts, group, used }))
    }

    /// A set: at most one part of a modality. Ready codes or latents come before the file they may have been made of.
    fn free(&mut self, named: &[Named], sidecar: Option<Sidecar>) -> Result<Result<Formed, Skip>> {
        let all = |wanted: Kind| -> Vec<usize> { (0..named.len()).filter(|&at| named[at].kind == wanted).collect() };
        let fields_first = !self.options.text_fields.is_empty();
        let record = match &sidecar {
            Some(Sidecar { value: Ok(Value::Object(record)), .. }) => Some(record),
            _ => None,
        };
        let told = record.and_then(|record| json::text(record, self.options));
        let group = record.and_then(|record| json::group(record, self.options));

        let mut chosen = Vec::new();
        let mut crowd = None;
        let mut is_texts = false;
        for (modality, kind) in
            [(Modality::Text, Kind::Text), (Modality::Image, Kind::Image), (Modality::Speech, Kind::Audio)]
        {
            let mut these = all(Kind::Array(modality));
            if these.is_empty() && !(kind == Kind::Text && fields_first && told.is_some()) {
                these = all(kind);
            }
            if these.len() > 1 {
                let endings: Vec<&str> = these.iter().take(8).map(|&at| &named[at].ending[..]).collect();
                crowd = crowd.or_else(|| Some(endings.join(", ")));
            }
            is_texts |= modality == Modality::Text && !these.is_empty();
            chosen.extend(these);
        }

        let mut used = vec![false; named.len()];
        match &sidecar {
            None => {}
            Some(Sidecar { at, value: Ok(_) }) => used[*at] = true,
            Some(Sidecar { value: Err(skip), .. }) => {
                // A broken sidecar is passed over if nothing of it would have been used.
                let needed = !is_texts || fields_first || self.options.group_field.is_some() || crowd.is_some();
                if needed {
                    return Ok(Err(skip.clone()));
                }
            }
        }
        if let Some(endings) = crowd {
            return Ok(Err(duplicate(&endings)));
        }
        let mut parts = Vec::new();
        if let Some(text) = told.filter(|_| !is_texts) {
            parts.push(Part::Text(text));
        }
        for at in chosen {
            used[at] = true;
            match self.part(&named[at])? {
                Ok(part) => parts.push(part),
                Err(skip) => return Ok(Err(skip)),
            }
        }
        if parts.is_empty() {
            return Ok(Err(Skip::new(SkipReason::NoPart, "a sidecar without text, and no other part")));
        }
        Ok(Ok(Formed { order: PartOrder::Free, parts, group, used }))
    }
}

fn duplicate(detail: &str) -> Skip {
    Skip::new(SkipReason::DuplicatePart, printable(detail, 160))
}
