//! Which grants lead to other places than the public internet, and what a namespace may be allowed of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::OutboundGrant;

/// What is not the public internet's, after the special-purpose registries of RFC 6890 at IANA, as far as it is IPv4.
const SPECIAL_V4: [([u8; 4], u8); 15] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];
/// Global unicast, outside of which nothing is public.
const GLOBAL_V6: ([u16; 2], u8) = ([0x2000, 0], 3);
/// What is in it and something else: IETF protocols, documentation, 6to4, documentation.
const SPECIAL_V6: [([u16; 2], u8); 4] =
    [([0x2001, 0], 23), ([0x2001, 0xdb8], 32), ([0x2002, 0], 16), ([0x3fff, 0], 20)];

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    network: IpAddr,
    bits: u8,
}

impl Block {
    fn v6([first, second]: [u16; 2], bits: u8) -> Self {
        Self { network: Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0).into(), bits }
    }

    /// Whether each address of `other` is one of these.
    fn covers(self, other: Self) -> bool {
        self.bits <= other.bits && self.is_same(other.network)
    }

    fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// An address in a block, also where it is spelled as one of IPv6.
    fn has(self, address: IpAddr) -> bool {
        self.is_same(address.to_canonical())
    }

    fn is_same(self, address: IpAddr) -> bool {
        // No address has as many bits as would be shifted out where the block is everything.
        match (self.network, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differ = u32::from(ours) ^ u32::from(theirs);
                self.bits == 0 || differ >> (32 - u32::from(self.bits)) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differ = u128::from(ours) ^ u128::from(theirs);
                self.bits == 0 || differ >> (128 - u32::from(self.bits)) == 0
            }
            _ => false,
        }
    }

    fn is_public(self) -> bool {
        match self.network {
            IpAddr::V4(_) => !SPECIAL_V4.iter().any(|(network, bits)| {
                self.overlaps(Self { network: Ipv4Addr::from(*network).into(), bits: *bits })
            }),
            IpAddr::V6(_) => {
                let (global, bits) = GLOBAL_V6;
                Self::v6(global, bits).covers(self)
                    && !SPECIAL_V6.iter().any(|(network, bits)| self.overlaps(Self::v6(*network, *bits)))
            }
        }
    }
}

impl FromStr for Block {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (network, bits) = match text.split_once('/') {
            Some((network, bits)) => (network, Some(bits.parse().map_err(drop)?)),
            None => (text, None),
        };
        let network: IpAddr = network.parse().map_err(drop)?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits <= most { Ok(Self { network, bits }) } else { Err(()) }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, bits } = self;
        let is_one = *bits == if network.is_ipv4() { 32 } else { 128 };
        let bits = if is_one { String::new() } else { format!("/{bits}") };
        match network {
            IpAddr::V4(_) => write!(f, "{network}{bits}"),
            IpAddr::V6(_) => write!(f, "[{network}{bits}]"),
        }
    }
}

/// Whether an address is reachable over the public internet, after the special-purpose registries of RFC 6890 at IANA.
/// Where an address embeds another one, as those of tunnels do, nobody here can tell where it ends: it is not public.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    let network = address.to_canonical();
    Block { network, bits: if network.is_ipv4() { 32 } else { 128 } }.is_public()
}

/// Private destinations that a namespace may be allowed: an address or a block, each with a port or with all, such as `127.0.0.1:5432`,
/// `10.0.0.0/8` or `[fd00::/8]:443`, or `*` for all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateDestination {
    /// None: every address.
    block: Option<Block>,
    /// None: every port.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no private destination: write an address or a block, with a port or without, such as `127.0.0.1:5432` or `10.0.0.0/8`, or `*`"
)]
pub struct InvalidDestination(String);

impl FromStr for PrivateDestination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, InvalidDestination> {
        let invalid = || InvalidDestination(text.chars().take(120).collect());
        if text == "*" {
            return Ok(Self { block: None, port: None });
        }
        // An address of IPv6 has colons itself, and stands in brackets where a port follows.
        let (block, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((block, "")) => (block, None),
            Some((block, rest)) => (block, Some(rest.strip_prefix(':').ok_or_else(invalid)?)),
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(block, port)| (block, Some(port))),
        };
        let port = match port {
            None | Some("*") => None,
            Some(port) => Some(port.parse().map_err(|_| invalid())?),
        };
        Ok(Self { block: Some(block.parse().map_err(|()| invalid())?), port })
    }
}

impl fmt::Display for PrivateDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.block {
            Some(block) => write!(f, "{block}")?,
            None => f.write_str("*")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl OutboundGrant {
    /// Whether it leads to an address that is not the public internet's. A grant by name does not: what the name resolves to has to be public,
    /// or spelled by another grant.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.block().is_some_and(|block| !block.is_public())
    }

    /// Whether everything that it leads to is among these.
    #[must_use]
    pub fn is_within(&self, allowed: &[PrivateDestination]) -> bool {
        self.block().is_some_and(|own| {
            allowed.iter().any(|it| {
                it.block.is_none_or(|block| block.covers(own))
                    && it.port.is_none_or(|port| self.port == Some(port))
            })
        })
    }

    /// Whether it spells this address, or a block that the address is in.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        self.block().is_some_and(|block| block.has(address))
    }

    fn block(&self) -> Option<Block> {
        self.host.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(text: &str) -> OutboundGrant {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_public_is_private_and_a_block_that_is_both_too() {
        for private in [
            "http://127.0.0.1:*",
            "http://169.254.169.254",
            "tcp://10.1.2.3:5432",
            "tcp://192.168.0.0/16:*",
            "tcp://0.0.0.0/0:*",
            "tcp://172.0.0.0/8:22",
            "udp://255.255.255.255:67",
            "http://[::1]:8080",
            "http://[fd00::1]:8080",
            "tcp://[::/0]:*",
            "tcp://[2000::/3]:*",
            "http://[::ffff:127.0.0.1]:80",
            "http://203.0.113.7",
        ] {
            assert!(grant(private).is_private(), "{private}");
        }
        for public in [
            "https://api.example.com",
            "http://hello.internal",
            "https://*",
            "http://*.example.com",
            "tcp://redis:6379",
            "tcp://1.1.1.1:53",
            "tcp://8.0.0.0/8:53",
            "https://[2606:4700::1111]:443",
        ] {
            assert!(!grant(public).is_private(), "{public}");
        }
    }

    #[test]
    fn what_is_allowed_has_the_whole_grant_in_it() {
        let allowed = |text: &str| vec![text.parse::<PrivateDestination>().unwrap()];
        for (destination, inside, outside) in [
            ("127.0.0.1:5432", "tcp://127.0.0.1:5432", "tcp://127.0.0.1:*"),
            ("127.0.0.1", "tcp://127.0.0.1:*", "tcp://127.0.0.2:5432"),
            ("10.0.0.0/8", "tcp://10.7.0.0/16:*", "tcp://0.0.0.0/0:*"),
            ("10.0.0.0/8:443", "https://10.7.0.1", "http://10.7.0.1"),
            ("[fd00::/8]:443", "https://[fd00::1]", "http://[fd00::1]"),
            ("::1", "http://[::1]:8080", "http://[::2]:8080"),
        ] {
            assert!(grant(inside).is_within(&allowed(destination)), "{inside} in {destination}");
            assert!(!grant(outside).is_within(&allowed(destination)), "{outside} in {destination}");
        }
        assert!(grant("tcp://0.0.0.0/0:*").is_within(&allowed("*")));
        assert!(!grant("tcp://10.0.0.1:1").is_within(&[]));
    }

    #[test]
    fn destinations_are_read_back_as_written() {
        for text in
            ["*", "127.0.0.1", "127.0.0.1:5432", "10.0.0.0/8", "10.0.0.0/8:443", "[fd00::/8]:443", "[::1]"]
        {
            assert_eq!(text.parse::<PrivateDestination>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.0.1:x",
            "10.0.0.1:70000",
            "[::1",
            "*:80",
            "http://10.0.0.1",
        ] {
            let refused = text.parse::<PrivateDestination>().unwrap_err().to_string();
            assert!(refused.contains("127.0.0.1:5432"), "{refused}");
        }
    }

    #[test]
    fn special_purpose_blocks_are_not_public() {
        for inside in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2001::7f00:1",
            "2001:2::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff:fff::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
    }

    #[test]
    fn their_neighbours_are_public() {
        for outside in [
            "1.1.1.1",
            "100.128.0.1",
            "192.88.98.1",
            "198.20.0.1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "3fff:1000::1",
        ] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }
}
