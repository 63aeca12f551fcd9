//! Computes for about a second, in memory and in registers, to measure what the limits of a platform cost.

/// Numbers below which primes are counted.
const BELOW: usize = 40_000_000;
/// Rows and columns of the matrices.
const SIZE: usize = 500;
/// Rounds of mixing bits.
const ROUNDS: u64 = 200_000_000;

/// The sieve of Eratosthenes: writes all over a large memory.
fn primes() -> usize {
    let mut composite = vec![false; BELOW];
    let mut count = 0;
    for number in 2..BELOW {
        if !composite[number] {
            count += 1;
            (number * number..BELOW).step_by(number).for_each(|multiple| composite[multiple] = true);
        }
    }
    count
}

/// The sum of a product of two matrices: reads memory along rows and columns.
fn product() -> f64 {
    let matrix = |seed: usize| -> Vec<f64> { (0..SIZE * SIZE).map(|i| ((i * seed) % 97) as f64).collect() };
    let (a, b) = (matrix(31), matrix(17));
    let mut sum = 0.0;
    for row in 0..SIZE {
        for column in 0..SIZE {
            sum += (0..SIZE).map(|k| a[row * SIZE + k] * b[k * SIZE + column]).sum::<f64>();
        }
    }
    sum
}

/// A generator of pseudo-random numbers (xorshift64): stays in registers.
fn mixed() -> u64 {
    (0..ROUNDS).fold(1, |mut x, _| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^ (x << 17)
    })
}

fn main() {
    println!("{} primes, a sum of {}, and {:x}", primes(), product(), mixed());
}
