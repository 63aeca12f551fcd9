//! Whose word about a client's address is believed.

use std::net::IpAddr;
use std::str::FromStr;

/// A range of addresses, such as `10.0.0.0/8` or `2001:db8::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    address: IpAddr,
    prefix_bits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a range of addresses: write `10.0.0.0/8`, `2001:db8::/32`, or one address")]
pub struct InvalidIpRange(String);

impl IpRange {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let shift = 32 - u32::from(self.prefix_bits);
                (ours.to_bits() ^ theirs.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let shift = 128 - u32::from(self.prefix_bits);
                (ours.to_bits() ^ theirs.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl From<IpAddr> for IpRange {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix_bits: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for IpRange {
    type Err = InvalidIpRange;
    fn from_str(text: &str) -> Result<Self, InvalidIpRange> {
        let invalid = || InvalidIpRange(text.chars().take(80).collect());
        let Some((address, bits)) = text.split_once('/') else {
            return text.parse::<IpAddr>().map(Self::from).map_err(|_| invalid());
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix_bits: u8 = bits.parse().map_err(|_| invalid())?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        if prefix_bits > bits_max {
            return Err(invalid());
        }
        // Clients of an IPv6 socket count as IPv4 where they are, so a range of such addresses has to as well.
        match (address.to_canonical(), prefix_bits.checked_sub(96)) {
            (canonical @ IpAddr::V4(_), Some(prefix_bits)) if address.is_ipv6() => {
                Ok(Self { address: canonical, prefix_bits })
            }
            _ => Ok(Self { address, prefix_bits }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpRange {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_holds_its_own_family_and_prefix_only() {
        assert!(range("10.0.0.0/8").contains(ip("10.255.0.1")));
        assert!(!range("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(range("2001:db8::/32").contains(ip("2001:db8:1::1")));
        assert!(!range("2001:db8::/32").contains(ip("2001:db9::1")));
        assert!(range("0.0.0.0/0").contains(ip("8.8.8.8")) && !range("0.0.0.0/0").contains(ip("::1")));
        assert!(
            range("127.0.0.1").contains(ip("127.0.0.1")) && !range("127.0.0.1").contains(ip("127.0.0.2"))
        );
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_counts_as_ipv4() {
        assert!(range("127.0.0.0/8").contains(ip("::ffff:127.0.0.1")));
        assert!(range("::ffff:10.0.0.0/104").contains(ip("10.1.2.3")));
        assert!(!range("::ffff:10.0.0.0/104").contains(ip("11.1.2.3")));
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["", "/", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "localhost"] {
            assert!(bad.parse::<IpRange>().is_err(), "{bad}");
        }
    }
}
