//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use crate::reach::fuzzing::{conntrack, dns, rules};
use crate::wasm::fuzzing::{names, unrolled, unrolled_modules};
use crate::wasm::volumes::read_archive;

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("unroll", unrolled, &[
        b"\0asm\x01\0\0\0",
        // A function with the loop `(loop (br_if 0 (local.get 0)))`, alone, and in a component.
        b"\0asm\x01\0\0\0\x01\x05\x01\x60\x01\x7f\0\x03\x02\x01\0\x0a\x0b\x01\x09\0\x03\x40\x20\0\x0d\0\x0b\x0b",
        b"\0asm\x0d\0\x01\0\x01\x1f\0asm\x01\0\0\0\x01\x05\x01\x60\x01\x7f\0\x03\x02\x01\0\x0a\x0b\x01\x09\0\x03\x40\x20\0\x0d\0\x0b\x0b",
    ]),
    ("unroll-modules", unrolled_modules, &[b"0123456789abcdefghijklmnopqrstuvwxyz", &[7; 300], &[0x41; 900]]),
    ("volume-archive", read_archive, &[include_bytes!("wasm/volumes/seed.tar"), &[0; 1024]]),
    ("dns", dns, &[
        b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x05redis\x08internal\0\0\x01\0\x01",
        b"\0\x01\x01\x20\0\x01\0\0\0\0\0\x01\x01a\0\0\x1c\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0",
        b"nameserver 10.0.0.2\nnameserver fe80::1%eth0\nsearch a\n",
    ]),
    ("conntrack", conntrack, &[
        b"\x48\0\0\0\0\x01\0\0\x07\0\0\0\0\0\0\0\x02\0\0\0\x34\0\x01\x80\x14\0\x01\x80\x08\0\x01\0\xac\x14\0\x02\x08\0\x02\0\xc6\x12\x10\x07\x1c\0\x02\x80\x05\0\x01\0\x11\0\0\0\x06\0\x02\0\x15\xb3\0\0\x06\0\x03\0\x1f\xbd\0\0",
        b"\x24\0\0\0\x02\0\0\0\x07\0\0\0\0\0\0\0\xfe\xff\xff\xff\0\0\0\0",
    ]),
    ("packet-filter-rules", rules, &[
        b"-A PREROUTING -d 198.18.0.1/32 -p tcp -m comment --comment \"wharf-018f0000-0000-7000-8000-000000000000\" -j DNAT --to-destination 127.0.0.1:80\n-P INPUT ACCEPT\n",
    ]),
    ("names", names, &[b"\0asm\x0d\0\x01\0", b"\0asm\x0d\0\x01\0\x07\x05\x01\x42\0\x0a\x0a\x01\0\x05a:b/c\x05\0"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 2000);
    }
}
