//! Which members belong together: those with the same name up to the first dot of its last part.

use std::collections::{HashMap, HashSet};

use super::contents::{Content, Member};
use crate::readers::escaped;
use crate::readers::listing::{is_audio, is_image};
use crate::vocabulary::Modality;

/// What a member is, by the last part of its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Text,
    Image,
    Audio,
    /// Codes or latents of a modality.
    Array(Modality),
    /// JSON: it says something of its sample.
    Sidecar,
    /// Belongs to no sample.
    Other,
}

/// Something that was found, in the order of the archive.
#[derive(Debug)]
pub(super) enum Found {
    /// A member without a key.
    Item { index: usize, ending: &'static str },
    /// Members of one key.
    Group(Group),
}

/// Members of one key.
#[derive(Debug)]
pub(super) struct Group {
    /// As in the archive.
    pub key: Vec<u8>,
    /// In their order.
    pub members: Vec<usize>,
    /// The archive, of those that stand one behind the other, that brings this key once more.
    pub again: Option<u32>,
}

impl Kind {
    pub fn of(ending: &str) -> Self {
        let (stem, last) = ending.rsplit_once('.').unwrap_or(("", ending));
        match last {
            "txt" | "text" | "transcript" | "caption" | "cap" => Self::Text,
            "json" => Self::Sidecar,
            "npy" => array(stem.rsplit('.').next().unwrap_or(stem)).map_or(Self::Other, Self::Array),
            _ if is_image(last) => Self::Image,
            _ if is_audio(last) => Self::Audio,
            _ => Self::Other,
        }
    }
}

/// Whose codes or latents an array of this name holds: `image`, `img_codes`, `speech-units`.
fn array(name: &str) -> Option<Modality> {
    let mut words = name.split(['_', '-']);
    let modality = match words.next()? {
        "image" | "img" => Modality::Image,
        "speech" | "audio" => Modality::Speech,
        "text" | "txt" | "tokens" => Modality::Text,
        _ => return None,
    };
    let rest = |word| matches!(word, "codes" | "code" | "tokens" | "token" | "ids" | "units" | "latents" | "latent");
    words.all(rest).then_some(modality)
}

/// Splits `folder/name.ext` into the key `folder/name` and the ending behind the first dot of the file name, or says why
/// the member has none.
fn split(member: &Member) -> Result<(&[u8], &[u8]), &'static str> {
    match member.content {
        Content::Folder => return Err("(folder)"),
        Content::Special => return Err("(special)"),
        _ => {}
    }
    let mut name = &member.name[..];
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    let base = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    match name[base..].iter().position(|&byte| byte == b'.') {
        Some(0) => Err("(hidden)"),
        None => Err("(none)"),
        Some(dot) if base + dot + 1 == name.len() => Err("(none)"),
        Some(dot) => Ok((&name[..base + dot], &name[base + dot + 1..])),
    }
}

/// Ending of a member that has a key, in lower case.
pub(super) fn ending(member: &Member) -> String {
    split(member).map_or_else(str::to_owned, |(_, ending)| escaped(ending).to_lowercase())
}

/// Groups the members of an archive, in the order in which keys first appear.
///
/// Archives that stand one behind the other may hold different members of one sample (texts, then images): these are put
/// together. Where a later one brings a part that is there already, its members are a sample of their own, with the same key.
pub(super) fn group(members: &[Member]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    // Only looked up, never iterated.
    let mut by_key: HashMap<(&[u8], u32), usize> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        match split(member) {
            Err(ending) => found.push(Found::Item { index, ending }),
            Ok((key, _)) => {
                let at = *by_key.entry((key, member.archive)).or_insert_with(|| {
                    found.push(Found::Group(Group { key: key.to_vec(), members: Vec::new(), again: None }));
                    found.len() - 1
                });
                if let Found::Group(group) = &mut found[at] {
                    group.members.push(index);
                }
            }
        }
    }
    drop(by_key);
    if members.last().is_some_and(|last| last.archive > 0) { join(found, members) } else { found }
}

fn join(found: Vec<Found>, members: &[Member]) -> Vec<Found> {
    let mut joined: Vec<Found> = Vec::new();
    let mut latest: HashMap<Vec<u8>, (usize, HashSet<String>)> = HashMap::new();
    for item in found {
        let Found::Group(mut group) = item else {
            joined.push(item);
            continue;
        };
        let slots: HashSet<String> = group.members.iter().map(|&index| slot(&ending(&members[index]))).collect();
        match latest.get_mut(&group.key) {
            Some((at, taken)) if taken.is_disjoint(&slots) => {
                taken.extend(slots);
                if let Found::Group(earlier) = &mut joined[*at] {
                    earlier.members.append(&mut group.members);
                }
                continue;
            }
            Some(_) => group.again = group.members.first().map(|&index| members[index].archive),
            None => {}
        }
        latest.insert(group.key.clone(), (joined.len(), slots));
        joined.push(Found::Group(group));
    }
    joined
}

/// What only one member of a sample can be: its only image, whatever the ending; one of several by its name.
fn slot(ending: &str) -> String {
    let kind = Kind::of(ending);
    let plain = !ending.contains('.') && kind != Kind::Other;
    if plain { format!("({kind:?})") } else { ending.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(name: &[u8]) -> Result<(String, String), &'static str> {
        let member = Member { name: name.to_vec(), archive: 0, content: Content::Unreadable("") };
        split(&member).map(|(key, rest)| (escaped(key), escaped(rest)))
    }

    #[test]
    fn keys_end_at_the_first_dot_of_the_file_name() {
        let pair = |key: &str, ending: &str| Ok((key.to_owned(), ending.to_owned()));
        assert_eq!(parts(b"a.png"), pair("a", "png"));
        assert_eq!(parts(b"./v1.2/a.b.PNG"), pair("v1.2/a", "b.PNG"));
        assert_eq!(parts(b"folder/._a.png"), Err("(hidden)"));
        assert_eq!(parts(b"README"), Err("(none)"));
        assert_eq!(parts(b"a."), Err("(none)"));
        assert_eq!(parts(b""), Err("(none)"));
    }

    #[test]
    fn the_last_part_of_an_ending_decides() {
        assert_eq!(Kind::of("v2.jpg"), Kind::Image);
        assert_eq!(Kind::of("npy"), Kind::Other);
        assert_eq!(Kind::of("image_codes.npy"), Kind::Array(Modality::Image));
        assert_eq!(Kind::of("speech.npy"), Kind::Array(Modality::Speech));
        assert_eq!(Kind::of("image_embedding.npy"), Kind::Other);
        assert_eq!(Kind::of("cls"), Kind::Other);
    }
}
