//! The page with the result, which loads itself again.

use voting::html::escape;
use voting::tables::Tally;

pub(crate) fn render(a: &str, b: &str, tally: Tally) -> String {
    let voters = tally.a + tally.b;
    let (bar_a, bar_b) = (bar(a, tally.a, voters), bar(b, tally.b, voters));
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="2">
<title>The result</title>
<style>
  body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 4rem auto; padding: 0 1rem }}
  meter {{ width: 100%; height: 2rem }}
</style>
<h1>The result</h1>
{bar_a}{bar_b}<p>Voters: {voters}. Votes that were cast, with those that a later one replaced: {received}.</p>
</html>
"#,
        received = tally.received
    )
}

fn bar(name: &str, votes: u64, voters: u64) -> String {
    let (name, max) = (escape(name), voters.max(1));
    format!(
        "<p>{name}: <b>{votes}</b><br><meter max=\"{max}\" value=\"{votes}\">{votes} of {voters}</meter></p>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_without_votes_has_bars() {
        let page = render("<a>", "b", Tally::default());
        assert!(page.contains("&lt;a&gt;: <b>0</b>") && page.contains("max=\"1\" value=\"0\""), "{page}");
    }
}
