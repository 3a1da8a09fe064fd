//! Which faults were tried, and how many of them met the ledger.

use anyhow::{Result, ensure};
use lab::{Lab, is_long};

use crate::{Fault, Injection, Outcome};

/// Every so manyth point is tried in a short run; with `MARMOT_LONG=1` all are.
const STRIDE: usize = 4;

/// The most points of one call: far more than any path has.
const MAX_POINTS: usize = 200;

/// Faults that met the ledger, by kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Census {
    killed: usize,
    full: usize,
    broken: usize,
    elsewhere: usize,
}

impl Census {
    /// Tries each fault at the first, second, ... of each call until there are no more.
    ///
    /// # Errors
    /// What a round found.
    pub fn visit(
        &mut self,
        lab: &Lab,
        calls: &[&'static str],
        mut round: impl FnMut(&Injection) -> Result<Outcome>,
    ) -> Result<()> {
        let step = if is_long() { 1 } else { STRIDE };
        let pairs = Fault::ALL
            .into_iter()
            .flat_map(|fault| calls.iter().map(move |call| (fault, *call)));
        for (number, (fault, call)) in pairs.enumerate() {
            // Short runs begin at a different point of each call, so that together they see most.
            for nth in (1 + number % step..MAX_POINTS).step_by(step) {
                match round(&Injection::new(lab, fault, call, nth))? {
                    Outcome::Missed => break,
                    Outcome::Elsewhere => self.elsewhere += 1,
                    Outcome::Hit => match fault {
                        Fault::Killed => self.killed += 1,
                        Fault::NoSpace => self.full += 1,
                        Fault::Broken => self.broken += 1,
                    },
                }
            }
        }
        Ok(())
    }

    /// Prints the figures. Nothing met is a failure.
    ///
    /// # Errors
    /// If a fault never met the ledger.
    pub fn report(&self, lab: &Lab) -> Result<()> {
        let Self {
            killed,
            full,
            broken,
            elsewhere,
        } = self;
        lab.note(&format!(
            "killed at {killed} points, ENOSPC at {full}, EIO at {broken}; {elsewhere} met something else"
        ));
        ensure!(
            *killed > 0 && *full > 0 && *broken > 0,
            "a fault never met the ledger: {self:?}"
        );
        Ok(())
    }
}
