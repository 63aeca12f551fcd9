// Included by path, as `mutations.rs` is and for the same reason.

/// A name, a parser, and inputs that lead far into it.
pub type Parser = (&'static str, fn(&[u8]), &'static [&'static [u8]]);
