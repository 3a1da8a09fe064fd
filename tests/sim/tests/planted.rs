//! The simulation sees: each planted fault is found, and soon.

use sim::planted::Planted;
use sim::run::find;

/// A fault that takes more schedules is one that the two million of CI would only find by luck.
const MOST: u64 = 10_000;

#[test]
fn every_planted_fault_is_found_in_ten_thousand_schedules() {
    let mut blind = Vec::new();
    println!("{:>9}  planted fault, and what was broken", "schedules");
    for planted in Planted::ALL {
        match find(*planted, MOST) {
            Some((needed, broken)) => {
                println!("{needed:>9}  {planted}: {broken}");
                if !planted.breaks().contains(&broken.promise) {
                    blind.push(format!("{planted}: found by {}", broken.promise));
                }
            }
            None => blind.push(format!("{planted}: not found")),
        }
    }
    assert!(blind.is_empty(), "{blind:#?}");
}
