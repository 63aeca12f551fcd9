//! Tells cargo that the embedded migrations are part of the crate: the macro that embeds them cannot.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
