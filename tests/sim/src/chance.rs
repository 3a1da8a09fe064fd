//! All the luck of a schedule, drawn from one number: xoshiro256++, seeded by splitmix64 (Blackman and Vigna, 2019).

use std::cell::Cell;

/// A stream of random numbers that depends on its seed alone.
#[derive(Debug)]
pub struct Chance {
    state: Cell<[u64; 4]>,
}

impl Chance {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        let state = [(); 4].map(|()| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Self {
            state: Cell::new(state),
        }
    }

    /// The next number.
    pub fn draw(&self) -> u64 {
        let [a, b, c, d] = self.state.get();
        let (c2, d2) = (c ^ a, d ^ b);
        self.state.set([a ^ d2, b ^ c2, c2 ^ (b << 17), d2.rotate_left(45)]);
        a.wrapping_add(d).rotate_left(23).wrapping_add(a)
    }

    /// A number below `limit`, which is not 0. The bias is below limit / 2^64.
    pub fn below(&self, limit: u64) -> u64 {
        u64::try_from((u128::from(self.draw()) * u128::from(limit)) >> 64).expect("half of a product is a number")
    }

    /// True once in `n` draws.
    pub fn once_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// One of `these`, which are not none.
    pub fn pick<T: Copy>(&self, these: &[T]) -> T {
        these[usize::try_from(self.below(these.len() as u64)).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_luck() {
        let (one, other) = (Chance::new(7), Chance::new(7));
        assert!((0..1000).all(|_| one.draw() == other.draw()));
        assert_ne!(Chance::new(7).draw(), Chance::new(8).draw());
    }

    #[test]
    fn numbers_stay_in_their_bounds_and_reach_them() {
        let chance = Chance::new(1);
        let drawn: Vec<u64> = (0..1000).map(|_| chance.between(3, 5)).collect();
        assert!([3, 4, 5].iter().all(|wanted| drawn.contains(wanted)));
        assert!(drawn.iter().all(|number| (3..=5).contains(number)));
    }
}
