//! Reads `application/x-www-form-urlencoded`, what an HTML form sends.

/// The fields in their order. Whatever is not encoded well is taken as it is.
pub(crate) fn parse(form: &[u8]) -> Vec<(String, String)> {
    let pairs = form.split(|&octet| octet == b'&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let middle = pair.iter().position(|&octet| octet == b'=').unwrap_or(pair.len());
            (decode(&pair[..middle]), decode(pair.get(middle + 1..).unwrap_or_default()))
        })
        .collect()
}

/// `+` is a space, `%41` an octet by its number, and a line ends with one character.
fn decode(text: &[u8]) -> String {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&octet, after)) = rest.split_first() {
        let escaped = match (octet, after) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        octets.push(escaped.unwrap_or(if octet == b'+' { b' ' } else { octet }));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&octets).replace("\r\n", "\n")
}

fn digit(octet: u8) -> Option<u8> {
    char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn fields_are_decoded_in_their_order() {
        let fields = parse(b"name=J%C3%BCrgen+B.&message=100%25%0D%0Aright");
        assert_eq!(fields, [pair("name", "Jürgen B."), pair("message", "100%\nright")]);
    }

    #[test]
    fn a_form_that_is_not_well_encoded_is_taken_as_it_is() {
        assert_eq!(
            parse(b"a=%&b=%4&%zz&=c&&"),
            [pair("a", "%"), pair("b", "%4"), pair("%zz", ""), pair("", "c")]
        );
        assert_eq!(parse(b"a=%ff"), [pair("a", "\u{fffd}")]);
        assert_eq!(parse(b""), []);
    }
}
