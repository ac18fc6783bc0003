//! What is kept of a parcel.

use fanfare_sdk::order::Order;
use serde::Serialize;

/// The value of `consignment/{order-id}`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Consignment {
    pub carrier: String,
    pub tracking_number: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracking_url: Option<String>,
    /// Where it goes; absent if the order has no address.
    pub country: Option<String>,
}

impl Consignment {
    /// A parcel that the shop takes care of itself.
    pub fn local(order: &Order) -> Self {
        Self {
            carrier: "local".to_owned(),
            tracking_number: local_number(&order.id),
            tracking_url: None,
            country: order.country().map(str::to_owned),
        }
    }
}

/// The same for every attempt at one order: `FF` and the hash of its id. Two of a million orders share a number about once
/// in 37 million shops.
fn local_number(order_id: &str) -> String {
    format!("FF{}", base32(fnv1a(order_id)))
}

/// 64-bit FNV-1a. <http://www.isthe.com/chongo/tech/comp/fnv/>
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// 13 characters of Crockford's base 32, which has no letters that look like digits. <https://www.crockford.com/base32.html>
fn base32(number: u64) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    const CHARACTERS: u32 = 13;
    let digits = (0..CHARACTERS).rev().map(|place| (number >> (5 * place)) & 31);
    digits.filter_map(|digit| ALPHABET.get(digit as usize).copied().map(char::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_agree_with_the_published_vectors() {
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn every_bit_is_written() {
        assert_eq!(base32(0), "0000000000000");
        assert_eq!(base32(32 + 31), "000000000001Z");
        assert_eq!(base32(u64::MAX), "FZZZZZZZZZZZZ");
    }
}
