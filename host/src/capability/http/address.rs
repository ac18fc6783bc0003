//! Which addresses a plugin may be connected to. Pure.
//!
//! Sources: the IANA special-purpose registries (RFC 6890) for IPv4 and IPv6, RFC 6052 (NAT64), RFC 3056 (6to4), RFC 5214
//! (ISATAP), and the documentation of the clouds for their metadata services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Anybody on the internet.
    Public,
    /// This machine, or one of a network that is not the internet's.
    Private,
    /// What answers on this link alone, and what tells a machine of a cloud who it is and with which keys: no name may lead
    /// there, only a grant for the very address.
    Metadata,
    /// Nobody that speaks HTTP: multicast, reserved, documentation.
    Nobody,
}

/// Metadata services that lie in no range of their own: Azure, Alibaba, Oracle.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
/// Amazon.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

pub fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    if METADATA_V4.contains(&address) {
        return Reach::Metadata;
    }
    match address.octets() {
        [169, 254, ..] => Reach::Metadata,
        // 100.64/10 is carrier-grade NAT, 198.18/15 benchmarks, 192.0.0/24 protocols.
        [10 | 127, ..]
        | [192, 168, ..]
        | [172, 16..=31, ..]
        | [100, 64..=127, ..]
        | [198, 18 | 19, ..]
        | [192, 0, 0, _] => Reach::Private,
        // 192.88.99/24 was the relays of 6to4.
        [0 | 224..=255, ..] | [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] => Reach::Nobody,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if address == METADATA_V6 {
        return Reach::Metadata;
    }
    let segments = address.segments();
    let own = match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Private,
        // Addresses that were mapped or translated from IPv4: only who is inside counts.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Reach::Public,
        [0x64, 0xff9b, 1, ..] | [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Reach::Private,
        [0xfe80..=0xfebf, ..] => Reach::Metadata,
        // Teredo, ORCHID and the like; documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Reach::Nobody,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Nobody,
    };
    // The worse of both.
    embedded(&segments).map_or(own, |inside| own.max(reach_v4(inside)))
}

/// The IPv4 address that a gateway would forward to.
fn embedded(segments: &[u16; 8]) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match *segments {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..]
        // ISATAP, under any prefix.
        | [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Reach {
        reach(text.parse().unwrap())
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        for address in ["93.184.215.14", "1.1.1.1", "172.32.0.1", "100.128.0.1", "169.253.1.1", "192.0.1.1"] {
            assert_eq!(of(address), Reach::Public, "{address}");
        }
        for address in ["2606:4700::1111", "2a00:1450:4001::1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"]
        {
            assert_eq!(of(address), Reach::Public, "{address}");
        }
    }

    #[test]
    fn this_machine_and_private_networks_are_private_in_whatever_form() {
        for address in ["127.0.0.1", "127.255.0.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1"] {
            let inside: Ipv4Addr = address.parse().unwrap();
            let [a, b, c, d] = inside.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for form in [
                address.to_owned(),
                format!("::ffff:{address}"),
                format!("::ffff:0:{address}"),
                format!("64:ff9b::{address}"),
                format!("2002:{high:x}:{low:x}::1"),
                format!("2a00::5efe:{address}"),
                format!("2a00::200:5efe:{address}"),
            ] {
                assert_eq!(of(&form), Reach::Private, "{form}");
            }
            assert!(of(&format!("::{address}")) >= Reach::Private);
        }
        for address in
            ["100.64.0.1", "100.127.255.255", "198.18.0.1", "::1", "fd12::1", "fec0::1", "64:ff9b:1::1.1.1.1"]
        {
            assert_eq!(of(address), Reach::Private, "{address}");
        }
    }

    #[test]
    fn metadata_services_are_told_apart_from_private_networks() {
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "fd00:ec2::254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
        ] {
            assert_eq!(of(address), Reach::Metadata, "{address}");
        }
    }

    #[test]
    fn nobody_answers_at_what_is_no_address_of_one_machine() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "203.0.113.9",
            "::",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            "100::1",
            "5f00::1",
            "4000::1",
            "::ffff:0.0.0.0",
        ] {
            assert_eq!(of(address), Reach::Nobody, "{address}");
        }
    }

    proptest! {
        #[test]
        fn a_form_of_ipv6_never_reaches_further_than_what_is_inside(inside in any::<u32>()) {
            let v4 = Ipv4Addr::from(inside);
            let [high, low] = [(inside >> 16) as u16, (inside & 0xffff) as u16];
            for form in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            ] {
                prop_assert!(reach(form.into()) >= reach(v4.into()) || form.is_loopback(), "{form}");
            }
        }
    }
}
