//! The buckets of `wharf run`, where there is no platform: they end with the process. They have the platform's limits, so that what an app meets there
//! it meets here.

use std::collections::BTreeMap;
use std::ops::Bound;

use wharf_types::Problem;
use wharf_types::keyvalue::{
    self, BATCH_VALUES_MAX_BYTES, KEYS_PER_PAGE, KeyValueOp, KeyValueReply, NAMESPACE_MAX_BYTES, Octets,
    entry_bytes,
};

#[derive(Debug, Default)]
pub(super) struct LocalBuckets {
    buckets: BTreeMap<String, Entries>,
    /// What all entries count.
    bytes: u64,
}

type Entries = BTreeMap<String, Vec<u8>>;

impl LocalBuckets {
    /// Carries out an operation that was checked.
    pub(super) fn carry_out(&mut self, bucket: &str, op: KeyValueOp) -> Result<KeyValueReply, Problem> {
        Ok(match op {
            KeyValueOp::Get { key } => KeyValueReply::Value(self.get(bucket, &key).cloned().map(Octets)),
            KeyValueOp::Exists { key } => KeyValueReply::Exists(self.get(bucket, &key).is_some()),
            KeyValueOp::GetMany { keys } => {
                let values: Vec<_> = keys.iter().map(|key| self.get(bucket, key)).collect();
                if values.iter().flatten().map(|value| value.len()).sum::<usize>() > BATCH_VALUES_MAX_BYTES {
                    return Err(keyvalue::too_many_values(keys.len()));
                }
                KeyValueReply::Values(values.into_iter().map(|value| value.cloned().map(Octets)).collect())
            }
            KeyValueOp::Set { key, value } => {
                self.set(bucket, vec![(key, value)])?;
                KeyValueReply::Done
            }
            KeyValueOp::SetMany { pairs } => {
                self.set(bucket, pairs)?;
                KeyValueReply::Done
            }
            KeyValueOp::Delete { key } => {
                self.delete(bucket, &key);
                KeyValueReply::Done
            }
            KeyValueOp::DeleteMany { keys } => {
                keys.iter().for_each(|key| self.delete(bucket, key));
                KeyValueReply::Done
            }
            KeyValueOp::ListKeys { after } => {
                let start = after.map_or(Bound::Unbounded, Bound::Excluded);
                let entries = self.buckets.get(bucket).into_iter();
                let mut rest = entries
                    .flat_map(|entries| entries.range((start.clone(), Bound::Unbounded)))
                    .map(|(key, _)| key);
                let keys: Vec<String> = rest.by_ref().take(KEYS_PER_PAGE).cloned().collect();
                KeyValueReply::Keys { keys, more: rest.next().is_some() }
            }
            KeyValueOp::Increment { key, delta } => {
                let sum = keyvalue::sum(&key, self.get(bucket, &key).map(Vec::as_slice), delta)?;
                self.set(bucket, vec![(key, Octets(sum.to_string().into_bytes()))])?;
                KeyValueReply::Number(sum)
            }
        })
    }

    fn get(&self, bucket: &str, key: &str) -> Option<&Vec<u8>> {
        self.buckets.get(bucket)?.get(key)
    }

    /// All or nothing.
    fn set(&mut self, bucket: &str, pairs: Vec<(String, Octets)>) -> Result<(), Problem> {
        // Of a key that is named several times, the last value.
        let pairs: Entries = pairs.into_iter().map(|(key, value)| (key, value.0)).collect();
        let entries = self.buckets.entry(bucket.to_owned()).or_default();
        let counts = |(key, value): (&String, &Vec<u8>)| entry_bytes(bucket, key, value.len());
        let new: u64 = pairs.iter().map(counts).sum();
        let old: u64 = pairs.keys().filter_map(|key| entries.get_key_value(key)).map(counts).sum();
        let bytes = self.bytes - old + new;
        if new > old && bytes > NAMESPACE_MAX_BYTES {
            return Err(keyvalue::no_room());
        }
        self.bytes = bytes;
        entries.extend(pairs);
        Ok(())
    }

    fn delete(&mut self, bucket: &str, key: &str) {
        if let Some(value) = self.buckets.get_mut(bucket).and_then(|entries| entries.remove(key)) {
            self.bytes -= entry_bytes(bucket, key, value.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &[u8]) -> KeyValueOp {
        KeyValueOp::Set { key: key.into(), value: Octets(value.to_vec()) }
    }

    fn listed(buckets: &mut LocalBuckets, after: Option<&str>) -> KeyValueReply {
        buckets.carry_out("b", KeyValueOp::ListKeys { after: after.map(str::to_owned) }).unwrap()
    }

    #[test]
    fn what_is_kept_is_counted_as_the_platform_counts_it() {
        let mut buckets = LocalBuckets::default();
        buckets.carry_out("b", set("x", b"123")).unwrap();
        let octets = |value: &[u8]| Octets(value.to_vec());
        let pairs = vec![("x".into(), octets(b"1")), ("y".into(), octets(b"")), ("x".into(), octets(b"22"))];
        buckets.carry_out("b", KeyValueOp::SetMany { pairs }).unwrap();
        assert_eq!(buckets.bytes, 2 * (256 + 2) + 2);
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(listed(&mut buckets, None), KeyValueReply::Keys { keys: keys(&["x", "y"]), more: false });
        assert_eq!(listed(&mut buckets, Some("x")), KeyValueReply::Keys { keys: keys(&["y"]), more: false });
        buckets.bytes = NAMESPACE_MAX_BYTES;
        let refused = buckets.carry_out("b", set("x", b"333")).unwrap_err();
        assert!(refused.detail.contains("256 MiB"), "{refused}");
        assert_eq!(buckets.get("b", "x").unwrap(), b"22");
        buckets.carry_out("b", set("x", b"1")).unwrap();
        buckets.carry_out("b", KeyValueOp::DeleteMany { keys: keys(&["x", "x", "y", "z"]) }).unwrap();
        assert_eq!(buckets.bytes, NAMESPACE_MAX_BYTES - 2 * (256 + 2) - 2);
    }

    #[test]
    fn a_sum_that_is_refused_is_not_kept() {
        let mut buckets = LocalBuckets::default();
        buckets.carry_out("b", set("n", b"-5")).unwrap();
        let increment = |delta| KeyValueOp::Increment { key: "n".into(), delta };
        assert!(buckets.carry_out("b", increment(1)).is_err());
        assert_eq!(buckets.get("b", "n").unwrap(), b"-5");
        assert_eq!(buckets.carry_out("b", increment(6)).unwrap(), KeyValueReply::Number(1));
    }
}
