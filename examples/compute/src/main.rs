//! Computes for about a second, as programs do: sorts, hashes, multiplies, writes and reads numbers. It measures what the limits
//! of a platform cost.

use std::fmt::Write as _;

/// Pseudo-random numbers (xorshift64).
fn numbers(count: usize) -> Vec<u64> {
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// The middle one of many numbers in order.
fn middle(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers[numbers.len() / 2]
}

/// A hash of all numbers, word by word: the rounds of SipHash without their key.
fn hash(numbers: &[u64]) -> u64 {
    let round = |[a, b, c, d]: [u64; 4]| {
        let (a, c) = (a.wrapping_add(b), c.wrapping_add(d));
        let (b, d) = (b.rotate_left(13) ^ a, d.rotate_left(16) ^ c);
        let (a, c) = (a.rotate_left(32).wrapping_add(d), c.wrapping_add(b));
        [a, b.rotate_left(17) ^ c, c.rotate_left(32), d.rotate_left(21) ^ a]
    };
    let state = numbers.iter().fold([1, 2, 3, 4], |[a, b, c, d], number| {
        let [a, b, c, d] = round(round([a, b, c, d ^ number]));
        [a ^ number, b, c, d]
    });
    state.into_iter().fold(0, |all, word| all ^ word)
}

/// The sum of a product of two square matrices.
fn product(size: usize) -> f64 {
    let matrix = |seed: usize| -> Vec<f64> { (0..size * size).map(|i| ((i * seed) % 97) as f64).collect() };
    let (a, b) = (matrix(31), matrix(17));
    let mut rows = vec![0.0; size * size];
    for row in 0..size {
        for k in 0..size {
            let factor = a[row * size + k];
            let (to, from) = (&mut rows[row * size..][..size], &b[k * size..][..size]);
            to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
        }
    }
    rows.iter().sum()
}

/// Writes numbers as text and reads them back.
fn through_text(numbers: &[u64]) -> u64 {
    let mut text = String::new();
    for number in numbers {
        let _ = writeln!(text, "{number}");
    }
    text.lines().filter_map(|line| line.parse::<u64>().ok()).fold(0, u64::wrapping_add)
}

fn main() {
    let numbers = numbers(3_000_000);
    let (hash, text) = (hash(&numbers), through_text(&numbers));
    println!("{hash:x} {text:x} {:x} {}", middle(numbers), product(400));
}
