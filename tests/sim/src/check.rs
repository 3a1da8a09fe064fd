//! The promises that are checked after every step.

use std::rc::Rc;

use ledger::Folder;
use lifecycle::{ACK_BUDGET, State};

use crate::broken::Promise;
use crate::disk::number;
use crate::host::Things;
use crate::process::Who;
use crate::world::{Event, Workers, World};

impl World {
    /// After every step.
    pub(crate) fn check(self: &Rc<Self>) {
        self.check_budget();
        self.check_start();
        self.check_forwarding();
        self.watch_due();
    }

    fn check_budget(&self) {
        let oldest = self.with(|daemon| daemon.stops.front().copied()).flatten();
        if let Some(stop) = oldest {
            let held = self.held.get() - stop.held;
            let took = self.at.get() - stop.asked - held;
            if u128::from(took) > ACK_BUDGET.as_micros() {
                self.broke(Promise::L1Budget, || {
                    format!("a stop waits for {took} us, {:?}", self.state())
                });
            }
        }
    }

    fn check_start(&self) {
        let Some(by) = self.start_by.get() else { return };
        match self.state() {
            Some(State::Idle | State::Failed(_)) if self.at.get() > by => {
                self.broke(Promise::L9WantedState, || {
                    format!("a start is not taken up, {:?}", self.state())
                });
            }
            Some(State::Idle | State::Failed(_)) => {}
            Some(State::Starting { .. } | State::Up { .. } | State::Reasserting { .. } | State::Stopping { .. })
            | None => self.start_by.set(None),
        }
    }

    fn check_forwarding(&self) {
        let facts = self.with(|daemon| {
            let forwarding = daemon.instances.iter().filter(|instance| instance.forwarding);
            let first = forwarding.clone().next().map(|instance| (instance.g, instance.mark));
            (first, forwarding.count(), daemon.machine.state())
        });
        let Some((first, count, state)) = facts else { return };
        let right = match (state, first) {
            (State::Up { g, .. }, Some((forwarding, mark))) => {
                let all = Things::ALL.into_iter().fold(Things::none(), Things::and);
                forwarding == g && self.host.borrow().in_force(mark) == all
            }
            (State::Reasserting { g, .. }, Some((forwarding, _))) => forwarding == g,
            (State::Up { .. }, None) => false,
            (_, first) => first.is_none(),
        };
        if !right || count > 1 {
            self.broke(Promise::L10OneForwards, || {
                format!("{count} forward, {first:?} first, {state:?}")
            });
        }
    }

    /// The path unit: it starts a worker whenever jobs are due.
    fn watch_due(&self) {
        if self.workers == Workers::Daemon || self.unit_comes.get() || self.running(Who::Unit).is_some() {
            return;
        }
        if self.disk.borrow().names(number(Folder::Due)).next().is_some() {
            self.unit_comes.set(true);
            self.after(self.chance.between(5_000, 50_000), Event::StartUnit(Who::Unit));
        }
    }

    pub(crate) fn has_waiting(&self) -> bool {
        self.disk.borrow().names(number(Folder::Waiting)).next().is_some()
    }
}
