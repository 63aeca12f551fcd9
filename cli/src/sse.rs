//! Server-sent events: the parser.
//!
//! Octets go in as they arrive, events come out when they are whole. What an event's data means is the caller's.

/// Data of one event beyond this ends the stream: no record of ours comes near.
const EVENT_MAX_BYTES: usize = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SseEvent {
    /// The last `id:` seen, to resume from.
    pub id: Option<String>,
    /// The `data:` lines, joined.
    pub data: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {EVENT_MAX_BYTES} bytes")]
pub struct EventTooLarge;

/// Keeps what has arrived of the line and of the event under way.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    /// The octet before was CR: an LF that follows belongs to the same line end.
    after_cr: bool,
    started: bool,
    data: Option<String>,
    id: Option<String>,
}

impl SseParser {
    /// Takes octets and returns the events that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, EventTooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    events.extend(self.end_line());
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(byte);
                }
            }
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > EVENT_MAX_BYTES {
                return Err(EventTooLarge);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<SseEvent> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let line = if self.started { line.as_str() } else { line.trim_start_matches('\u{feff}') };
        self.started = true;
        if line.is_empty() {
            return self.data.take().map(|data| SseEvent { id: self.id.clone(), data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.id = (!value.is_empty()).then(|| value.to_owned()),
            // `event` and `retry` are not used by our API; an empty field name is a comment that keeps the stream alive.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Vec<(Option<String>, String)> {
        let events = SseParser::default().feed(text.as_bytes()).unwrap();
        events.into_iter().map(|event| (event.id, event.data)).collect()
    }

    #[test]
    fn an_event_has_its_data_and_the_last_id() {
        let events = parse(": hello\n\nid: 7\ndata: {\"a\":1}\n\ndata:x\ndata: y\n\nid: 8\n\n");
        assert_eq!(events, [(Some("7".into()), "{\"a\":1}".into()), (Some("7".into()), "x\ny".into())]);
    }

    #[test]
    fn all_three_line_ends_are_taken() {
        for end in ["\n", "\r\n", "\r"] {
            assert_eq!(parse(&format!("id: 1{end}data: a{end}{end}")), [(Some("1".into()), "a".into())]);
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = SseParser::default();
        let chunk = vec![b'x'; 1 << 20];
        assert!((0..5).any(|_| parser.feed(&chunk).is_err()));
    }

    proptest! {
        #[test]
        fn how_the_octets_are_cut_does_not_matter(bytes in proptest::collection::vec(proptest::sample::select(b"\r\n:id dat0x{}\xc3\xa4".to_vec()), 0..200), cut in 1..20_usize) {
            let whole = SseParser::default().feed(&bytes).unwrap();
            let mut parser = SseParser::default();
            let mut parts = Vec::new();
            for chunk in bytes.chunks(cut) {
                parts.extend(parser.feed(chunk).unwrap());
            }
            prop_assert_eq!(whole, parts);
        }

        #[test]
        fn what_a_server_writes_comes_back(records in proptest::collection::vec(("[0-9]{1,9}", "[^\r\n]{0,60}"), 0..8)) {
            let text: String = records.iter().map(|(id, data)| format!("id: {id}\ndata: {data}\n\n")).collect();
            let expected: Vec<_> = records.into_iter().map(|(id, data)| (Some(id), data)).collect();
            prop_assert_eq!(parse(&text), expected);
        }

        #[test]
        fn any_octets_do_not_panic(bytes in any::<Vec<u8>>()) {
            let _ = SseParser::default().feed(&bytes);
        }
    }
}
