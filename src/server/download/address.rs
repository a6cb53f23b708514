//! Which addresses belong to the public Internet. Pure.
//!
//! Everything that a registry sets aside is refused (IANA's special-purpose registries, RFC 6890), also what only looks
//! public: forms of IPv6 that carry an IPv4 address lead to that one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether anybody on the Internet could be asked for at this address.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// The first octets of each block that is set aside, and its length in bits.
const SPECIAL_V4: &[([u8; 4], u32)] = &[
    ([0, 0, 0, 0], 8),       // this network
    ([10, 0, 0, 0], 8),      // private
    ([100, 64, 0, 0], 10),   // carriers' NAT
    ([127, 0, 0, 0], 8),     // loopback
    ([169, 254, 0, 0], 16),  // link-local, metadata services
    ([172, 16, 0, 0], 12),   // private
    ([192, 0, 0, 0], 24),    // protocol assignments
    ([192, 0, 2, 0], 24),    // documentation
    ([192, 31, 196, 0], 24), // AS112
    ([192, 52, 193, 0], 24), // AMT
    ([192, 88, 99, 0], 24),  // 6to4 relays
    ([192, 168, 0, 0], 16),  // private
    ([192, 175, 48, 0], 24), // AS112
    ([198, 18, 0, 0], 15),   // benchmarks
    ([198, 51, 100, 0], 24), // documentation
    ([203, 0, 113, 0], 24),  // documentation
    ([224, 0, 0, 0], 4),     // multicast
    ([240, 0, 0, 0], 4),     // reserved, broadcast
];

/// What is set aside within 2000::/3, the only block that is given out to the public.
const SPECIAL_V6: &[([u16; 3], u32)] = &[
    ([0x2001, 0x0000, 0], 23),      // protocol assignments: Teredo, ORCHID, benchmarks
    ([0x2001, 0x0db8, 0], 32),      // documentation
    ([0x2002, 0x0000, 0], 16),      // 6to4, which carries IPv4
    ([0x2620, 0x004f, 0x8000], 48), // AS112
    ([0x3fff, 0x0000, 0], 20),      // documentation
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !SPECIAL_V4.iter().any(|&(block, length)| (bits ^ Ipv4Addr::from(block).to_bits()) >> (32 - length) == 0)
}

/// Loopback, link-local, unique local, multicast, IPv4-mapped and NAT64 addresses lie outside of 2000::/3.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    let within = |&([a, b, c], length): &([u16; 3], u32)| {
        (bits ^ Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).to_bits()) >> (128 - length) == 0
    };
    within(&([0x2000, 0, 0], 3)) && !SPECIAL_V6.iter().any(within)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_public_and_what_is_not() {
        let check = |list: &str, expected: bool| {
            for address in list.split_whitespace() {
                assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
            }
        };
        check(
            "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.167.1.1 198.20.0.1 223.255.255.255",
            true,
        );
        check("2606:4700::1111 2a00:1450::1 2001:4860:4860::8888 2003::1 2400::1", true);
        check(
            "0.0.0.0 0.1.2.3 10.0.0.1 127.0.0.1 127.255.255.255 169.254.169.254 172.16.0.1 172.31.255.255",
            false,
        );
        check(
            "192.168.0.1 100.64.0.1 100.127.255.255 198.18.0.1 198.19.255.255 192.0.2.1 203.0.113.9",
            false,
        );
        check("192.0.0.1 192.88.99.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255", false);
        check(":: ::1 fe80::1 fc00::1 fd12::1 ff02::1 fec0::1 100::1", false);
        check("::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::1", false);
        check("2002:7f00:1:: 2001::1 2001:db8::1 2001:2::1 2001:20::1 3fff::1 5f00::1", false);
    }

    proptest! {
        #[test]
        fn no_form_of_an_address_is_more_public_than_the_standard_library_knows(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            if is_public(v4.into()) {
                prop_assert!(!v4.is_private() && !v4.is_loopback() && !v4.is_link_local() && !v4.is_multicast());
                prop_assert!(!v4.is_broadcast() && !v4.is_documentation() && !v4.is_unspecified());
            }
            prop_assert!(!is_public(v4.to_ipv6_mapped().into()) && !is_public(v4.to_ipv6_compatible().into()));
        }
    }
}
