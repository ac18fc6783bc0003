//! What the demo's shop sells, and what it costs where.

/// One article. Its place in [`ARTICLES`] is its rank in popularity.
pub struct Article {
    pub title: &'static str,
    /// US cents; other currencies follow from it.
    pub cents: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Currency {
    Usd,
    Eur,
    Gbp,
    Jpy,
}

impl Currency {
    pub fn code(self) -> &'static str {
        match self {
            Self::Usd => "USD",
            Self::Eur => "EUR",
            Self::Gbp => "GBP",
            Self::Jpy => "JPY",
        }
    }

    /// The price of an article of so many US cents, in minor units and rounded as shops do.
    pub fn price(self, cents: i64) -> i64 {
        match self {
            Self::Usd => cents,
            Self::Eur => ending(cents * 92 / 100, 10, 9),
            Self::Gbp => ending(cents * 79 / 100, 10, 9),
            // The yen has no smaller unit.
            Self::Jpy => ending(cents * 150 / 100, 100, 80),
        }
    }
}

/// The amount moved to the next one that ends so: 1834 becomes 1839.
fn ending(amount: i64, unit: i64, end: i64) -> i64 {
    amount - amount.rem_euclid(unit) + end
}

pub fn sku(rank: usize) -> String {
    format!("FF-{:03}", rank + 101)
}

#[rustfmt::skip]
pub const ARTICLES: [Article; 60] = [
    Article { title: "Ceramic mug, 350 ml", cents: 1_299 }, Article { title: "Linen tea towel, set of 2", cents: 1_850 },
    Article { title: "Cast-iron skillet, 26 cm", cents: 4_995 }, Article { title: "Pour-over coffee dripper", cents: 2_450 },
    Article { title: "Chef's knife, 20 cm", cents: 8_900 }, Article { title: "Beeswax candle", cents: 990 },
    Article { title: "Notebook A5, dotted", cents: 1_495 }, Article { title: "Merino socks", cents: 1_695 },
    Article { title: "Glass water bottle, 750 ml", cents: 2_195 }, Article { title: "Oak cutting board", cents: 3_990 },
    Article { title: "Wool blanket, 130 × 180 cm", cents: 11_900 }, Article { title: "Single-origin coffee, 500 g", cents: 1_750 },
    Article { title: "Sencha green tea, 100 g", cents: 1_390 }, Article { title: "Enamel saucepan, 2 l", cents: 4_450 },
    Article { title: "Fountain pen, fine", cents: 2_890 }, Article { title: "Canvas tote bag", cents: 1_590 },
    Article { title: "Hand soap, cedar", cents: 1_190 }, Article { title: "Desk lamp, brass", cents: 9_950 },
    Article { title: "Bread basket, willow", cents: 2_650 }, Article { title: "Espresso cups, set of 4", cents: 3_490 },
    Article { title: "Garden secateurs", cents: 3_795 }, Article { title: "Terracotta pot, 20 cm", cents: 1_495 },
    Article { title: "Picture frame, A4", cents: 1_990 }, Article { title: "Pepper mill, walnut", cents: 4_250 },
    Article { title: "Olive oil, 500 ml", cents: 1_690 }, Article { title: "Bath towel, organic cotton", cents: 3_250 },
    Article { title: "Wall clock, 30 cm", cents: 5_490 }, Article { title: "Travel umbrella", cents: 3_190 },
    Article { title: "Leather card holder", cents: 4_900 }, Article { title: "Wooden building blocks", cents: 3_650 },
    Article { title: "Jigsaw puzzle, 1000 pieces", cents: 2_290 }, Article { title: "Board game: Harbour", cents: 4_590 },
    Article { title: "Rain jacket", cents: 12_900 }, Article { title: "Beanie, lambswool", cents: 2_990 },
    Article { title: "Camping stove", cents: 6_490 }, Article { title: "Enamel mug, blue", cents: 1_090 },
    Article { title: "Bicycle bell", cents: 1_890 }, Article { title: "Bicycle light set", cents: 4_990 },
    Article { title: "Yoga mat, cork", cents: 7_900 }, Article { title: "Foam roller", cents: 2_790 },
    Article { title: "Watercolour set, 24 pans", cents: 5_290 }, Article { title: "Sketchbook A3", cents: 2_590 },
    Article { title: "Ukulele, soprano", cents: 8_490 }, Article { title: "Harmonica in C", cents: 3_990 },
    Article { title: "Record sleeve, pack of 50", cents: 1_790 }, Article { title: "Portable speaker", cents: 9_900 },
    Article { title: "Over-ear headphones", cents: 18_900 }, Article { title: "Charging cable, 2 m", cents: 1_990 },
    Article { title: "Phone stand, beech", cents: 2_490 }, Article { title: "Mechanical keyboard", cents: 13_900 },
    Article { title: "Floor cushion", cents: 5_900 }, Article { title: "Hammock", cents: 8_900 },
    Article { title: "Fire pit, steel", cents: 24_900 }, Article { title: "Telescope, 70 mm", cents: 19_900 },
    Article { title: "Globe, 30 cm", cents: 7_490 }, Article { title: "Chess set, maple", cents: 6_900 },
    Article { title: "Espresso machine", cents: 54_900 }, Article { title: "Stand mixer", cents: 42_900 },
    Article { title: "Bookshelf, ash", cents: 32_900 }, Article { title: "Lounge chair", cents: 69_900 },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_in_the_minor_units_of_their_currency() {
        let prices = [Currency::Usd, Currency::Eur, Currency::Gbp, Currency::Jpy].map(|currency| currency.price(1_850));
        assert_eq!(prices, [1_850, 1_709, 1_469, 2_780]);
    }

    #[test]
    fn no_title_stands_twice() {
        let mut titles: Vec<_> = ARTICLES.iter().map(|article| article.title).collect();
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), ARTICLES.len());
    }
}
