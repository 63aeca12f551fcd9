// What the ordinary tests of each crate do with its parsers, included by path: it belongs to no crate, and none of them should depend on
// another for it.

use std::time::{Duration, Instant};

use super::Parser;

/// Far more than any parser takes for inputs of this size, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);
const INPUT_MAX_BYTES: usize = 4096;

/// Calls each parser with its seeds, and with so many random changes of them. The same changes each time.
pub(crate) fn try_each(parsers: &[Parser], rounds: usize) {
    for (name, parser, seeds) in parsers {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for seed in *seeds {
            call(name, *parser, seed);
        }
        for _ in 0..rounds {
            call(name, *parser, &random.change(seeds));
        }
    }
}

/// Says which input it was when a parser panics.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the parser {} failed for b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

fn call(name: &str, parser: fn(&[u8]), input: &[u8]) {
    let _shown = Shown(name, input);
    let begun = Instant::now();
    parser(input);
    assert!(begun.elapsed() < PATIENCE, "{name} took {:?}", begun.elapsed());
}

/// Xorshift: good enough to vary, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }

    /// One of the seeds, changed in a few places.
    fn change(&mut self, seeds: &[&[u8]]) -> Vec<u8> {
        let mut input = seeds.get(self.below(seeds.len())).map(|seed| seed.to_vec()).unwrap_or_default();
        for _ in 0..=self.below(4) {
            self.change_once(&mut input, seeds);
        }
        input.truncate(INPUT_MAX_BYTES);
        input
    }

    fn change_once(&mut self, input: &mut Vec<u8>, seeds: &[&[u8]]) {
        const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\n\r\t \"'\\/{}[]:,=.-+*%#<>@019aAzZ\xc3\xa4";
        let (from, to) = (self.below(input.len() + 1), self.below(input.len() + 1));
        let (from, to) = (from.min(to), from.max(to));
        match self.below(7) {
            0 if from < input.len() => input[from] = self.below(256) as u8,
            1 if from < input.len() => input[from] = TELLING[self.below(TELLING.len())],
            2 => input.insert(from, TELLING[self.below(TELLING.len())]),
            3 => drop(input.drain(from..to)),
            4 => {
                let twice = input[from..to].to_vec();
                let at = self.below(input.len() + 1);
                input.splice(at..at, twice);
            }
            5 => {
                let other = seeds.get(self.below(seeds.len())).copied().unwrap_or_default();
                let cut = self.below(other.len() + 1);
                input.splice(from..to, other[cut..].iter().copied());
            }
            _ => input
                .extend((0..self.below(9)).map(|_| TELLING[self.below(TELLING.len())]).collect::<Vec<u8>>()),
        }
    }
}
