//! Chance that is the same for the same seed, on every machine and in every version: SplitMix64 (Steele, Lea and
//! Flood, "Fast splittable pseudorandom number generators", 2014).

pub struct Random(u64);

impl Random {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 to `end`, which is left out; 0 where `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        let scaled = (u128::from(self.next()) * u128::from(end)) >> 64;
        usize::try_from(scaled).unwrap_or(0)
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `texts`, empty where there are none.
    pub fn word(&mut self, texts: &[&'static str]) -> &'static str {
        texts.get(self.below(texts.len())).copied().unwrap_or_default()
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Ranks drawn by Zipf's law: rank r comes up in proportion to 1/(r+1). A few things are bought often, most rarely.
pub struct Zipf {
    /// Sums of the weights up to each rank.
    sums: Vec<usize>,
}

impl Zipf {
    pub fn over(ranks: usize) -> Self {
        const FIRST_WEIGHT: usize = 1_000_000;
        let sums = (1..=ranks).scan(0, |sum, rank| {
            *sum += FIRST_WEIGHT / rank;
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    pub fn draw(&self, random: &mut Random) -> usize {
        let at = random.below(self.sums.last().copied().unwrap_or(0));
        self.sums.partition_point(|&sum| sum <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_the_paper() {
        let mut random = Random::seeded(1_234_567);
        let drawn: Vec<_> = (0..3).map(|_| random.next()).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn the_first_rank_comes_up_about_twice_as_often_as_the_second() {
        let (zipf, mut random) = (Zipf::over(60), Random::seeded(1));
        let mut counts = [0_usize; 60];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut random)] += 1;
        }
        assert!(counts[0] * 10 > counts[1] * 17 && counts[0] * 10 < counts[1] * 23, "{counts:?}");
        assert!(counts.iter().all(|&count| count > 0));
    }
}
