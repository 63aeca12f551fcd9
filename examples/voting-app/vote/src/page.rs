//! The page to vote on.

use voting::html::escape;
use voting::vote::Id;

/// `id` is that of the vote that will be cast on this page: who clicks twice votes once.
pub(crate) fn render(a: &str, b: &str, id: &Id) -> String {
    let (a, b, id) = (escape(a), escape(b), id.as_str());
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{a} or {b}?</title>
<style>
  body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 4rem auto; padding: 0 1rem; text-align: center }}
  form {{ display: flex; gap: 1rem }}
  button {{ font: inherit; font-size: 1.5rem; flex: 1; padding: 2rem 1rem; border: 2px solid #345; border-radius: .5rem }}
</style>
<h1>{a} or {b}?</h1>
<form method="post" action="/">
  <input type="hidden" name="id" value="{id}">
  <button name="choice" value="a">{a}</button>
  <button name="choice" value="b">{b}</button>
</form>
<p>You may vote again; your last vote counts.</p>
</html>
"#
    )
}
