//! Hard and symbolic links within an archive.

use std::collections::HashMap;

use super::contents::{Content, Member};
use crate::readers::{Skip, SkipReason, escaped, printable};

/// Finds the members that links lead to.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Members by their names without `.` and `..`; empty if there are no links.
    by_name: HashMap<Vec<u8>, Vec<usize>>,
}

impl Links {
    pub fn new(members: &[Member]) -> Self {
        let mut by_name: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        if members.iter().any(|member| target(member).is_some()) {
            for (index, member) in members.iter().enumerate() {
                if let Some(name) = normal(&member.name) {
                    by_name.entry(name).or_default().push(index);
                }
            }
        }
        Self { by_name }
    }

    /// The member whose bytes a member has: itself, or the one at the end of its links.
    pub fn resolve(&self, members: &[Member], index: usize) -> Result<usize, Skip> {
        let mut at = index;
        let mut passed = vec![at];
        while let Some(wanted) = target(&members[at]) {
            let skip = |what: &str| {
                let name = printable(&escaped(&members[index].name), 80);
                Skip::new(SkipReason::UnreadableMember, format!("link {name} {what}"))
            };
            let Some(wanted) = wanted else { return Err(skip("leads out of the archive")) };
            // Of several members of that name the one that was there when the link was written.
            let same = self.by_name.get(&wanted).map_or(&[][..], Vec::as_slice);
            let before = same.partition_point(|&other| other < at);
            let next = before.checked_sub(1).map(|last| same[last]);
            let next = next.or_else(|| same.get(before..)?.iter().copied().find(|&other| other != at));
            at = match next {
                Some(next) => next,
                None if same.contains(&at) => return Err(skip("leads to itself")),
                None => {
                    let wanted = printable(&escaped(&wanted), 80);
                    return Err(skip(&format!("leads to {wanted}, which is not in the archive")));
                }
            };
            if passed.contains(&at) {
                return Err(skip("leads in a circle"));
            }
            if passed.len() > 40 {
                return Err(skip("leads over too many links"));
            }
            passed.push(at);
        }
        Ok(at)
    }
}

/// Where a link leads, as a normal name; the inner `None`: out of the archive. `None` for what is no link.
fn target(member: &Member) -> Option<Option<Vec<u8>>> {
    match &member.content {
        Content::HardLink(name) => Some(normal(name)),
        Content::SymbolicLink(name) if name.starts_with(b"/") => Some(None),
        Content::SymbolicLink(name) => {
            let folder = member.name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
            Some(normal(&[&member.name[..folder], name].concat()))
        }
        _ => None,
    }
}

/// A name without empty parts, `.` and `..`; `None` if it climbs above the root.
fn normal(name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}
