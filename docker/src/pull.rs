//! How far a pull is, from what the engine says of each layer.

use std::collections::BTreeMap;

use bollard::models::CreateImageInfo;

/// How much of an image is here. Layers that were here before count as done, and their octets not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    pub layers_done: usize,
    /// As many as are known of.
    pub layers: usize,
    pub downloaded_bytes: u64,
    /// Of the layers whose download has begun.
    pub total_bytes: u64,
}

/// Declaration order is the way of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Waiting,
    Downloading,
    Downloaded,
    Extracting,
    Done,
}

#[derive(Clone, Copy, Debug, Default)]
struct Layer {
    /// The phase, and how far it is in octets: what has grown has come further.
    reached: (Phase, u64),
    downloaded_bytes: u64,
    total_bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<String, Layer>);

impl Tally {
    /// Takes what the engine said; returns whether the pull has come further than it ever was. An engine that only tries again says
    /// much, and comes no further.
    pub(crate) fn take(&mut self, said: &CreateImageInfo) -> bool {
        let (Some(id), Some(status)) = (&said.id, &said.status) else { return false };
        let detail = said.progress_detail.as_ref();
        let octets = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        let current = octets(detail.and_then(|detail| detail.current));
        let total = octets(detail.and_then(|detail| detail.total));
        let reached = match status.as_str() {
            "Pulling fs layer" | "Waiting" => (Phase::Waiting, 0),
            "Downloading" => (Phase::Downloading, current),
            "Verifying Checksum" => (Phase::Downloaded, 0),
            "Download complete" => (Phase::Downloaded, 1),
            "Extracting" => (Phase::Extracting, current),
            "Pull complete" | "Already exists" => (Phase::Done, 0),
            _ => return false,
        };
        let is_new = !self.0.contains_key(id);
        let layer = self.0.entry(id.clone()).or_default();
        if reached.0 == Phase::Downloading {
            layer.total_bytes = layer.total_bytes.max(total);
            layer.downloaded_bytes = layer.downloaded_bytes.max(current);
        } else if reached.0 > Phase::Downloading {
            layer.downloaded_bytes = layer.total_bytes;
        }
        let is_further = is_new || reached > layer.reached;
        layer.reached = layer.reached.max(reached);
        is_further
    }

    pub(crate) fn progress(&self) -> PullProgress {
        let layers = self.0.values();
        PullProgress {
            layers_done: layers.clone().filter(|layer| layer.reached.0 == Phase::Done).count(),
            layers: layers.len(),
            downloaded_bytes: layers.clone().map(|layer| layer.downloaded_bytes).sum(),
            total_bytes: layers.map(|layer| layer.total_bytes).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    fn said(id: &str, status: &str, bytes: Option<(i64, i64)>) -> CreateImageInfo {
        let detail = |(current, total)| ProgressDetail { current: Some(current), total: Some(total) };
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: bytes.map(detail),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn layers_add_up() {
        let mut tally = Tally::default();
        for said in [
            said("a", "Pulling fs layer", None),
            said("b", "Already exists", None),
            said("a", "Downloading", Some((10, 100))),
            said("c", "Downloading", Some((50, 50))),
            said("c", "Download complete", None),
            said("c", "Extracting", Some((50, 50))),
            said("c", "Pull complete", None),
        ] {
            assert!(tally.take(&said), "{said:?}");
        }
        let progress = PullProgress { layers_done: 2, layers: 3, downloaded_bytes: 60, total_bytes: 150 };
        assert_eq!(tally.progress(), progress);
    }

    #[test]
    fn trying_again_is_no_progress() {
        let mut tally = Tally::default();
        assert!(tally.take(&said("a", "Downloading", Some((10, 100)))));
        assert!(!tally.take(&said("a", "Retrying in 5 seconds", None)));
        assert!(!tally.take(&said("a", "Downloading", Some((10, 100)))));
        assert!(tally.take(&said("a", "Downloading", Some((11, 100)))));
    }

    #[test]
    fn what_makes_no_sense_changes_nothing() {
        let mut tally = Tally::default();
        assert!(!tally.take(&CreateImageInfo::default()));
        tally.take(&said("a", "Downloading", Some((-1, i64::MIN))));
        assert_eq!(tally.progress().downloaded_bytes, 0);
    }
}
