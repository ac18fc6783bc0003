//! The standing of a customer, by lifetime points: what was earned and not taken back.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    Bronze,
    Silver,
    Gold,
}

impl Tier {
    /// Points from which a customer is silver.
    pub const SILVER_FROM: i64 = 1_000;
    /// Points from which a customer is gold.
    pub const GOLD_FROM: i64 = 5_000;

    #[must_use]
    pub fn of(points: i64) -> Self {
        match points {
            Self::GOLD_FROM.. => Self::Gold,
            Self::SILVER_FROM.. => Self::Silver,
            _ => Self::Bronze,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bronze => "bronze",
            Self::Silver => "silver",
            Self::Gold => "gold",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_begins_at_its_limit() {
        assert_eq!(
            [-5, 999, 1_000, 4_999, 5_000].map(Tier::of).map(Tier::name),
            ["bronze", "bronze", "silver", "silver", "gold"]
        );
    }
}
