//! Addresses that stand for apps on this node: nobody has them, and whoever connects to one is led on from there.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use wharf_types::{AppName, NamespaceName};

/// A block of addresses, such as `198.18.0.0/15`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    first: u32,
    bits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no block of at least 16 addresses: write its first address and the length of its prefix, such as 198.18.0.0/15"
)]
pub struct InvalidBlock(String);

/// The longest prefix of a block, so that there are some addresses in it.
const BITS_MAX: u8 = 28;

impl Block {
    /// # Panics
    /// Where the prefix is longer than an address.
    pub(crate) const fn new(first: [u8; 4], bits: u8) -> Self {
        assert!(bits <= 32, "an address has 32 bits");
        Self { first: u32::from_be_bytes(first), bits }
    }

    pub(crate) fn len(self) -> u32 {
        u32::try_from(1_u64 << (32 - u32::from(self.bits))).unwrap_or(u32::MAX)
    }

    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address).wrapping_sub(self.first) < self.len()
    }

    /// An address by its number.
    pub(crate) fn at(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first.wrapping_add(number))
    }

    /// Where this node itself listens.
    pub(crate) fn home(self) -> Ipv4Addr {
        self.at(1)
    }

    /// The blocks with this prefix that it is made of: itself where it is no larger than one.
    pub(crate) fn parts(self, bits: u8) -> impl Iterator<Item = Self> + Clone {
        let bits = bits.max(self.bits);
        let count = 1_u32 << (bits - self.bits).min(16);
        let size = Self { first: 0, bits }.len();
        (0..count).map(move |part| Self { first: self.first.wrapping_add(part.wrapping_mul(size)), bits })
    }
}

impl FromStr for Block {
    type Err = InvalidBlock;

    fn from_str(text: &str) -> Result<Self, InvalidBlock> {
        let invalid = || InvalidBlock(text.chars().take(60).collect());
        let (first, bits) = text.split_once('/').ok_or_else(invalid)?;
        let first: Ipv4Addr = first.parse().map_err(|_| invalid())?;
        let bits = bits.parse().ok().filter(|bits| (8..=BITS_MAX).contains(bits)).ok_or_else(invalid)?;
        let block = Self { first: first.into(), bits };
        // One that begins elsewhere is a slip.
        if block.first & (block.len() - 1) != 0 { Err(invalid()) } else { Ok(block) }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.at(0), self.bits)
    }
}

type Named = (NamespaceName, AppName);

/// Who has which address of a block.
#[derive(Debug)]
pub(crate) struct Addresses {
    block: Block,
    /// Makes the same names other numbers.
    salt: u64,
    by_app: HashMap<Named, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, Named>,
}

/// The network's own, and the home of the node.
const RESERVED: u32 = 2;

impl Addresses {
    pub(crate) fn new(block: Block, salt: u64) -> Self {
        Self { block, salt, by_app: HashMap::new(), by_address: HashMap::new() }
    }

    pub(crate) fn block(&self) -> Block {
        self.block
    }

    /// The address of an app, from now on. It follows from the name as long as no other app has it, so that mostly it is the same after a restart.
    /// None: there are as many apps as addresses; those for which `is_gone` says so have given theirs back.
    pub(crate) fn of(
        &mut self,
        namespace: &NamespaceName,
        app: &AppName,
        is_gone: impl Fn(&NamespaceName, &AppName) -> bool,
    ) -> Option<Ipv4Addr> {
        let named = (namespace.clone(), app.clone());
        if let Some(known) = self.by_app.get(&named) {
            return Some(*known);
        }
        // The last is for broadcasts where somebody takes the block for a network.
        let count = self.block.len().saturating_sub(RESERVED + 1);
        if self.by_app.len() >= count as usize {
            self.by_app.retain(|(namespace, app), _| !is_gone(namespace, app));
            let kept = &self.by_app;
            self.by_address.retain(|_, named| kept.contains_key(named));
        }
        let begin = number_of(self.salt, &named) % u64::from(count.max(1));
        let numbers = (0..u64::from(count)).map(|step| (begin + step) % u64::from(count));
        let mut addresses = numbers.map(|number| self.block.at(RESERVED + number as u32));
        let free = addresses.find(|address| !self.by_address.contains_key(address))?;
        self.by_app.insert(named.clone(), free);
        self.by_address.insert(free, named);
        Some(free)
    }

    pub(crate) fn app_at(&self, address: Ipv4Addr) -> Option<&Named> {
        self.by_address.get(&address)
    }
}

fn number_of(salt: u64, (namespace, app): &Named) -> u64 {
    let hash = blake3::hash(format!("{salt}\n{namespace}\n{app}").as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(name: &str) -> Named {
        ("ours".parse().unwrap(), name.parse().unwrap())
    }

    #[test]
    fn a_block_is_written_as_it_is_read() {
        let block: Block = "198.18.0.0/15".parse().unwrap();
        assert_eq!((block.to_string().as_str(), block.len()), ("198.18.0.0/15", 1 << 17));
        assert!(block.contains([198, 19, 255, 255].into()) && !block.contains([198, 20, 0, 0].into()));
        assert_eq!(block.parts(20).count(), 32);
        assert_eq!(block.parts(20).nth(31).unwrap().to_string(), "198.19.240.0/20");
        let small: Block = "10.9.8.16/28".parse().unwrap();
        assert_eq!(small.parts(20).collect::<Vec<_>>(), [small]);
        assert_eq!(small.home(), Ipv4Addr::new(10, 9, 8, 17));
        for bad in
            ["", "off", "198.18.0.0", "198.18.0.1/15", "198.18.0.0/29", "0.0.0.0/0", "::/15", "1.2.3/8"]
        {
            assert!(bad.parse::<Block>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_app_keeps_its_address_and_has_it_again_in_the_next_process() {
        let block = "198.18.16.0/20".parse().unwrap();
        let (mut first, mut second) = (Addresses::new(block, 7), Addresses::new(block, 7));
        let of = |addresses: &mut Addresses, name: &str| {
            let (namespace, app) = named(name);
            addresses.of(&namespace, &app, |_, _| true).unwrap()
        };
        let redis = of(&mut first, "redis");
        of(&mut second, "db");
        assert_eq!(of(&mut first, "redis"), redis);
        assert_eq!(of(&mut second, "redis"), redis);
        assert_eq!(first.app_at(redis), Some(&named("redis")));
        assert_ne!(of(&mut first, "db"), redis);
    }

    #[test]
    fn a_full_block_has_room_again_when_apps_are_gone() {
        let mut addresses = Addresses::new("10.0.0.0/28".parse().unwrap(), 0);
        let mut of = |name: String, gone: bool| {
            let (namespace, app) = named(&name);
            addresses.of(&namespace, &app, |_, app| gone && app.as_str() == "a3")
        };
        let all: Vec<_> = (0..13).map(|n| of(format!("a{n}"), false).unwrap()).collect();
        assert_eq!(of("more".into(), false), None);
        assert_eq!(of("more".into(), true), Some(all[3]));
    }

    proptest! {
        #[test]
        fn no_two_apps_have_one_address_and_none_the_nodes_own(
            names in proptest::collection::btree_set("[a-z]{1,8}", 1..200), salt: u64,
        ) {
            let block: Block = "198.18.0.0/24".parse().unwrap();
            let mut addresses = Addresses::new(block, salt);
            let mut seen = std::collections::BTreeSet::new();
            for name in names {
                let (namespace, app) = named(&name);
                let address = addresses.of(&namespace, &app, |_, _| false).unwrap();
                prop_assert!(block.contains(address) && address != block.home() && seen.insert(address));
            }
        }
    }
}
