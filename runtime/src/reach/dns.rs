//! The few words of the DNS (RFC 1035) that are read and written here: one question, and an answer with one address or none. What name servers elsewhere
//! answer is passed on as it came.

use std::net::Ipv4Addr;

pub(crate) const HEADER_BYTES: usize = 12;
/// How long an answer may be kept. The address of an app lasts as long as this process.
const TTL_SECS: u32 = 5;

const TYPE_A: u16 = 1;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;

/// In the second word of a header.
const IS_ANSWER: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const IS_AUTHORITY: u16 = 0x0400;
const IS_TRUNCATED: u16 = 0x0200;
const WANTS_RECURSION: u16 = 0x0100;
const HAS_RECURSION: u16 = 0x0080;

/// A pointer to the name in the question.
const ASKED_NAME: [u8; 2] = [0xc0, HEADER_BYTES as u8];

/// The question of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Without a dot at the end. Octets that no name of ours has are shown as `?`.
    pub(crate) name: String,
    kind: u16,
    /// Where the question ends in the message.
    end: usize,
}

/// What is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Address(Ipv4Addr),
    NoSuchName,
    /// No name server has answered.
    Failed,
    /// Whoever asks is not known here.
    Refused,
    Malformed,
}

impl Answer {
    fn code(self) -> u16 {
        match self {
            Self::Address(_) => 0,
            Self::Malformed => 1,
            Self::Failed => 2,
            Self::NoSuchName => 3,
            Self::Refused => 5,
        }
    }
}

/// Whether a message is long enough to be answered, and no answer itself.
pub(crate) fn is_query(message: &[u8]) -> bool {
    message.len() >= HEADER_BYTES && word(message, 2).is_some_and(|flags| flags & IS_ANSWER == 0)
}

/// Reads the question of a query. None: there is not exactly one, or it is none of the usual kind.
pub(crate) fn question(message: &[u8]) -> Option<Question> {
    let flags = word(message, 2)?;
    if flags & OPCODE != 0 || word(message, 4)? != 1 {
        return None;
    }
    let (mut name, mut at) = (String::new(), HEADER_BYTES);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => {}
            // The first name of a message has nothing to point to.
            _ => return None,
        }
        let label = message.get(at..at + length)?;
        at += length;
        if at - HEADER_BYTES > 254 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        // A dot within a label is none between two.
        let is_plain = |octet: &u8| octet.is_ascii_graphic() && *octet != b'.';
        name.extend(label.iter().map(|octet| if is_plain(octet) { char::from(*octet) } else { '?' }));
    }
    let (kind, class) = (word(message, at)?, word(message, at + 2)?);
    (class == CLASS_IN).then_some(Question { name, kind, end: at + 4 })
}

/// The answer to a query. `question` None: it could not be read.
pub(crate) fn answer(query: &[u8], question: Option<&Question>, answer: Answer) -> Vec<u8> {
    let asked = question.and_then(|question| query.get(HEADER_BYTES..question.end)).unwrap_or_default();
    let address = match (answer, question) {
        (Answer::Address(address), Some(Question { kind: TYPE_A | TYPE_ANY, .. })) => Some(address),
        // The name is there, and has nothing of another type.
        _ => None,
    };
    let (id, flags) = (word(query, 0).unwrap_or(0), word(query, 2).unwrap_or(0));
    let is_ours = matches!(answer, Answer::Address(_) | Answer::NoSuchName);
    let flags = IS_ANSWER
        | flags & (OPCODE | WANTS_RECURSION)
        | if is_ours { IS_AUTHORITY } else { 0 }
        | HAS_RECURSION
        | answer.code();
    let counts = [u16::from(!asked.is_empty()), u16::from(address.is_some()), 0, 0];
    let mut message = Vec::with_capacity(HEADER_BYTES + asked.len() + 16);
    for word in [id, flags].into_iter().chain(counts) {
        message.extend(word.to_be_bytes());
    }
    message.extend(asked);
    if let Some(address) = address {
        message.extend(ASKED_NAME);
        message.extend(TYPE_A.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message.extend(TTL_SECS.to_be_bytes());
        message.extend(4_u16.to_be_bytes());
        message.extend(address.octets());
    }
    message
}

/// The same query under another number.
pub(crate) fn with_id(message: &[u8], id: [u8; 2]) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id);
    }
    message
}

/// Whether a message is the answer to a query: of the same number, and with the same question.
pub(crate) fn answers(query: &[u8], question: &Question, message: &[u8]) -> bool {
    let is_answer = word(message, 2).is_some_and(|flags| flags & IS_ANSWER != 0);
    let asked = |message: &[u8]| message.get(HEADER_BYTES..question.end).map(<[u8]>::to_ascii_lowercase);
    let has_no_question = message.len() >= HEADER_BYTES && word(message, 4) == Some(0);
    is_answer && message.get(..2) == query.get(..2) && (has_no_question || asked(message) == asked(query))
}

/// An answer that is too long for a datagram says so, and is asked for again over TCP.
pub(crate) fn truncated(answer: &[u8], question: &Question) -> Vec<u8> {
    let mut cut = answer.get(..question.end.min(answer.len())).unwrap_or_default().to_vec();
    if let (Some(flags), Some(rest)) = (word(&cut, 2), cut.get_mut(2..HEADER_BYTES)) {
        rest[..2].copy_from_slice(&(flags | IS_TRUNCATED).to_be_bytes());
        rest[4..].fill(0);
    }
    cut
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    let octets = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(octets.try_into().ok()?))
}

/// For the fuzzer: what is read is within the message, and each answer is one to it.
#[cfg(any(test, fuzzing))]
pub(crate) fn asked(message: &[u8]) {
    let question = question(message);
    let all = [Answer::Address([198, 18, 0, 7].into()), Answer::NoSuchName, Answer::Failed, Answer::Refused];
    if !is_query(message) {
        return;
    }
    let Some(question) = question else {
        assert_eq!(answer(message, None, Answer::Malformed).len(), HEADER_BYTES);
        return;
    };
    assert!(question.end <= message.len() && question.name.len() <= 254);
    for said in all {
        let said = answer(message, Some(&question), said);
        assert!(answers(message, &question, &said) && !is_query(&said));
        assert!(answers(message, &question, &truncated(&said, &question)));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message
    }

    const AAAA: u16 = 28;

    #[test]
    fn an_address_is_answered_with_the_question_and_one_record() {
        let query = query("Redis.internal", TYPE_A);
        let question = question(&query).unwrap();
        assert_eq!(question.name, "Redis.internal");
        let said = answer(&query, Some(&question), Answer::Address([198, 18, 0, 7].into()));
        assert_eq!(said[..12], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(said[12..question.end], query[12..]);
        assert_eq!(said[question.end..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 198, 18, 0, 7]);
    }

    #[test]
    fn a_name_that_is_there_has_no_address_of_the_other_kind_and_is_not_denied() {
        let query = query("redis", AAAA);
        let question = question(&query).unwrap();
        let said = answer(&query, Some(&question), Answer::Address([198, 18, 0, 7].into()));
        assert_eq!((said[3] & 0xf, said.len()), (0, query.len()), "no error, and no record");
        assert_eq!(answer(&query, Some(&question), Answer::NoSuchName)[3] & 0xf, 3);
    }

    #[test]
    fn what_comes_after_the_question_is_not_answered() {
        let mut query = query("a", TYPE_A);
        let plain = query.len();
        // As resolvers say how long a datagram they take (RFC 6891).
        query[11] = 1;
        query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        let question = question(&query).unwrap();
        assert_eq!(answer(&query, Some(&question), Answer::NoSuchName).len(), plain);
    }

    #[test]
    fn nonsense_has_no_question() {
        let good = query("a.b", TYPE_A);
        for length in 0..good.len() {
            assert_eq!(question(&good[..length]), None, "{length}");
        }
        let with = |at: usize, octet: u8| {
            let mut message = good.clone();
            message[at] = octet;
            question(&message)
        };
        assert_eq!(with(5, 2), None, "two questions");
        assert_eq!(with(12, 0xc0), None, "a pointer");
        assert_eq!(with(2, 0x28), None, "another operation");
        assert_eq!(with(good.len() - 1, 3), None, "another class");
        assert_eq!(question(&query(&["x".repeat(63).as_str(); 4].join("."), TYPE_A)), None, "too long");
        let mut dot = good.clone();
        dot[13] = b'.';
        assert_eq!(question(&dot).unwrap().name, "?.b");
    }

    #[test]
    fn an_answer_is_known_by_number_and_question() {
        let asked = query("example.com", TYPE_A);
        let question = question(&asked).unwrap();
        let said = answer(&asked, Some(&question), Answer::Failed);
        assert!(answers(&asked, &question, &said));
        assert!(!answers(&asked, &question, &asked), "it is the query");
        assert!(!answers(&with_id(&asked, [0, 0]), &question, &said), "another number");
        let other = query("example.org", TYPE_A);
        let other_said = answer(&other, super::question(&other).as_ref(), Answer::Failed);
        assert!(!answers(&asked, &question, &other_said), "another name");
        assert_eq!(with_id(&asked, [1, 2])[..3], [1, 2, 1]);
    }
}
