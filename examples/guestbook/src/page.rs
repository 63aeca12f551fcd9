//! The page, with all text from visitors escaped.

use crate::Entry;

pub(crate) fn render(entries: &[Entry], total: usize, visits: u64) -> String {
    let list: String = entries.iter().map(item).collect();
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Guestbook</title>
<style>
  body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 38rem; margin: 2rem auto; padding: 0 1rem }}
  input, textarea, button {{ font: inherit; display: block; width: 100%; box-sizing: border-box; margin: .25rem 0 }}
  blockquote {{ margin: 1rem 0; padding-left: 1rem; border-left: .25rem solid #ccc; white-space: pre-wrap }}
</style>
<h1>Guestbook</h1>
<form method="post" action="/">
  <label>Name <input name="name" maxlength="60" required></label>
  <label>Message <textarea name="message" maxlength="500" required></textarea></label>
  <button>Sign</button>
</form>
<p>Entries: {total}. Visits: {visits}.</p>
{list}</html>
"#
    )
}

fn item(entry: &Entry) -> String {
    format!("<blockquote><b>{}</b>\n{}</blockquote>\n", escape(&entry.name), escape(&entry.message))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visitor_cannot_write_markup() {
        let entry = Entry { name: "<script>".to_owned(), message: "\"&\"".to_owned() };
        let page = render(&[entry], 1, 1);
        assert!(page.contains("<b>&lt;script&gt;</b>") && page.contains("&quot;&amp;&quot;"), "{page}");
    }
}
