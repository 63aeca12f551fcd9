//! The head of a connection to a guest that wants to know who the client is: the PROXY protocol, version 2.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and a connection that was made for somebody else.
const VERSION_AND_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header of a connection from `client` to `public`, the address that the client connected to.
pub(super) fn encode(client: SocketAddr, public: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(VERSION_AND_COMMAND);
    match (client.ip().to_canonical(), public.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([TCP_OVER_IPV4, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([TCP_OVER_IPV6, 0, 36]);
            for address in [from, to] {
                header.extend(match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                });
            }
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(public.port().to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(client: &str, public: &str) -> Vec<u8> {
        encode(client.parse().unwrap(), public.parse().unwrap())
    }

    #[test]
    fn the_octets_are_those_of_the_specification() {
        let expected = [
            &b"\r\n\r\n\0\r\nQUIT\n"[..],
            &[0x21, 0x11, 0, 12, 203, 0, 113, 9, 10, 0, 0, 1, 0xc3, 0x50, 0x1b, 0x58],
        ]
        .concat();
        assert_eq!(header("203.0.113.9:50000", "10.0.0.1:7000"), expected);
        // A socket that listens for both families writes addresses of the older one like this.
        assert_eq!(header("[::ffff:203.0.113.9]:50000", "[::ffff:10.0.0.1]:7000"), expected);
    }

    #[test]
    fn the_length_is_that_of_what_follows() {
        let v6 = header("[2001:db8::1]:50000", "[2001:db8::2]:7000");
        assert_eq!((v6[13], v6.len()), (0x21, 16 + 36));
        assert_eq!(v6[15], 36);
        assert_eq!(&v6[16..20], [0x20, 0x01, 0x0d, 0xb8]);
    }
}
