//! Pushes that are refused without asking anybody, and how the client is told.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::limits::Limits;
use crate::object_id::ObjectId;
use crate::pkt::{self, Band};
use crate::push_head::PushHead;
use crate::ref_name::{RefName, RefUpdate};

/// Why a push is refused. The text is for who pushes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the push has {objects} objects, and may have {max}: push its history in parts, or only what the app is built from"
    )]
    Objects { objects: u32, max: u32 },
    #[error("the push changes {updates} refs, and may change {max}: push fewer at once")]
    Updates { updates: usize, max: usize },
    #[error("the push is larger than {}: keep large files out of the repository, or push its history in parts", size(*.0))]
    TooLarge(u64),
    #[error("the push took longer than {} s: push its history in parts, or over a faster connection", .0.as_secs())]
    Slow(Duration),
    #[error("nothing came for {} s: push again", .0.as_secs())]
    Stalled(Duration),
    #[error("{0} is the platform's own: push to another ref")]
    Hidden(RefName),
    #[error("{0} has changed meanwhile: fetch it, and push again")]
    Stale(RefName),
    #[error("there is no {0} that could be deleted")]
    Missing(RefName),
}

impl Refusal {
    /// In a few words, behind the ref.
    fn reason(&self) -> &'static str {
        match self {
            Self::Objects { .. } => "too many objects",
            Self::Updates { .. } => "too many refs",
            Self::TooLarge(_) => "too large",
            Self::Slow(_) | Self::Stalled(_) => "too slow",
            Self::Hidden(_) => "not allowed",
            Self::Stale(_) => "fetch first",
            Self::Missing(_) => "no such ref",
        }
    }

    /// What is sent to the client, which is then told no more.
    pub(crate) fn report(&self, head: &PushHead) -> Bytes {
        let mut report = BytesMut::new();
        if head.reports_status {
            pkt::put_line(&mut report, b"unpack ok\n");
            for update in &head.updates {
                pkt::put_line(&mut report, format!("ng {} {}\n", update.name, self.reason()).as_bytes());
            }
            report.put_slice(pkt::FLUSH);
        }
        if !head.takes_side_band {
            return report.freeze();
        }
        let mut answer = BytesMut::new();
        pkt::put_band(&mut answer, Band::Progress, format!("{self}\n").as_bytes());
        pkt::put_band(&mut answer, Band::Data, &report);
        answer.put_slice(pkt::FLUSH);
        answer.freeze()
    }
}

/// What can be said of a push before its pack is read.
pub(crate) fn of_head(head: &PushHead, limits: &Limits) -> Option<Refusal> {
    let (objects, updates) = (head.objects.unwrap_or(0), head.updates.len());
    if updates > limits.updates_max {
        return Some(Refusal::Updates { updates, max: limits.updates_max });
    }
    if objects > limits.objects_max {
        return Some(Refusal::Objects { objects, max: limits.objects_max });
    }
    let hidden = head.updates.iter().find(|update| update.name.is_hidden())?;
    Some(Refusal::Hidden(hidden.name.clone()))
}

/// What can be said of a push before anybody is asked: git itself looks at the refs only afterwards.
pub(crate) fn of_updates(updates: &[RefUpdate], refs: &HashMap<RefName, ObjectId>) -> Option<Refusal> {
    updates.iter().find_map(|update| {
        if refs.get(&update.name).copied() != update.old {
            return Some(Refusal::Stale(update.name.clone()));
        }
        (update.old.is_none() && update.new.is_none()).then(|| Refusal::Missing(update.name.clone()))
    })
}

fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{bytes} octets") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> ObjectId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn update(name: &str, old: Option<char>, new: Option<char>) -> RefUpdate {
        RefUpdate { name: name.parse().unwrap(), old: old.map(id), new: new.map(id) }
    }

    #[test]
    fn a_push_beyond_the_limits_or_to_hidden_refs_is_refused_by_its_head() {
        let limits = Limits { objects_max: 10, updates_max: 1, ..Limits::default() };
        let head = |updates: Vec<RefUpdate>, objects| PushHead { updates, objects, ..PushHead::default() };
        let main = || update("refs/heads/main", None, Some('1'));
        assert_eq!(of_head(&head(vec![main()], Some(10)), &limits), None);
        let refusal = |updates, objects| of_head(&head(updates, objects), &limits).unwrap().to_string();
        assert!(refusal(vec![main()], Some(11)).contains("11 objects, and may have 10"));
        assert!(refusal(vec![main(), main()], None).contains("2 refs, and may change 1"));
        assert!(refusal(vec![update("refs/wharf/x", Some('1'), None)], None).contains("refs/wharf/x"));
    }

    #[test]
    fn a_push_that_knows_old_refs_is_refused() {
        let refs = HashMap::from([("refs/heads/main".parse().unwrap(), id('1'))]);
        let refusal = |name, old, new| of_updates(&[update(name, old, new)], &refs);
        assert_eq!(refusal("refs/heads/main", Some('1'), Some('2')), None);
        assert_eq!(refusal("refs/heads/new", None, Some('2')), None);
        for (name, old) in
            [("refs/heads/main", Some('2')), ("refs/heads/main", None), ("refs/heads/new", Some('1'))]
        {
            assert!(matches!(refusal(name, old, Some('3')), Some(Refusal::Stale(_))), "{name} {old:?}");
        }
        assert!(matches!(refusal("refs/heads/new", None, None), Some(Refusal::Missing(_))));
    }

    #[test]
    fn a_client_is_told_in_the_way_that_it_understands() {
        let mut head =
            PushHead { updates: vec![update("refs/heads/a", None, Some('1'))], ..PushHead::default() };
        let refusal = Refusal::TooLarge(1 << 30);
        assert_eq!(refusal.report(&head), "");
        head.reports_status = true;
        assert_eq!(refusal.report(&head), "000eunpack ok\n001eng refs/heads/a too large\n0000");
        head.takes_side_band = true;
        let report = refusal.report(&head);
        let mut boundaries = pkt::Boundaries::default();
        boundaries.pass(&report);
        assert!(boundaries.is_between_lines() && report.ends_with(b"00000000"));
        assert!(report[5..].starts_with(b"the push is larger than 1024 MiB"));
    }
}
