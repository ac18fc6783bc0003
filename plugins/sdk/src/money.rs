//! Minor units and what they are called: ISO 4217 gives each currency an exponent, the number of decimals of its major unit.

/// Decimals of a currency's major unit: 0 for JPY, 2 for USD, 3 for KWD. A code that ISO 4217 does not list has 2.
pub fn exponent(currency: &str) -> u32 {
    match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "UYI" | "VND"
        | "VUV" | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        "CLF" | "UYW" => 4,
        _ => 2,
    }
}

/// Minor units in one major unit: 1 for JPY, 100 for USD, 1000 for KWD.
pub fn minor_per_major(currency: &str) -> i64 {
    10_i64.pow(exponent(currency))
}

/// Whole major units in an amount, rounded towards zero.
pub fn whole_units(amount: i64, currency: &str) -> i64 {
    amount / minor_per_major(currency)
}

/// How a language writes numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Separators {
    pub thousands: &'static str,
    pub decimal: char,
}

/// No grouping, decimal point: `1234.50`.
pub const PLAIN: Separators = Separators { thousands: "", decimal: '.' };

/// The amount in major units, without the currency: `-1,234.50`.
pub fn format(amount: i64, currency: &str, separators: Separators) -> String {
    let exponent = exponent(currency);
    let per_major = 10_u64.pow(exponent);
    let major = (amount.unsigned_abs() / per_major).to_string();
    let mut out = String::with_capacity(major.len() * 2 + 5);
    if amount < 0 {
        out.push('-');
    }
    for (position, digit) in major.chars().enumerate() {
        if position > 0 && (major.len() - position).is_multiple_of(3) {
            out.push_str(separators.thousands);
        }
        out.push(digit);
    }
    if exponent > 0 {
        let minor = amount.unsigned_abs() % per_major;
        out.push(separators.decimal);
        out.push_str(&format!("{minor:0width$}", width = exponent as usize));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: Separators = Separators { thousands: ",", decimal: '.' };

    #[test]
    fn decimals_follow_the_currency() {
        assert_eq!(format(16_800, "USD", PLAIN), "168.00");
        assert_eq!(format(16_800, "JPY", PLAIN), "16800");
        assert_eq!(format(16_800, "KWD", PLAIN), "16.800");
        assert_eq!(format(5, "KWD", PLAIN), "0.005");
    }

    #[test]
    fn thousands_are_grouped_from_the_right() {
        assert_eq!(format(99_999, "USD", ENGLISH), "999.99");
        assert_eq!(format(100_000, "USD", ENGLISH), "1,000.00");
        assert_eq!(format(1_234_567, "JPY", ENGLISH), "1,234,567");
    }

    #[test]
    fn negative_and_extreme_amounts_are_written_in_full() {
        assert_eq!(format(-105, "EUR", PLAIN), "-1.05");
        assert_eq!(format(i64::MIN, "JPY", PLAIN), "-9223372036854775808");
    }

    #[test]
    fn whole_units_drop_the_remainder() {
        assert_eq!(whole_units(1_999, "USD"), 19);
        assert_eq!(whole_units(1_999, "JPY"), 1_999);
        assert_eq!(whole_units(1_999, "KWD"), 1);
    }
}
