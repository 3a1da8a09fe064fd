//! On demand: the host is set up without a connection, and the first packet of a program makes one.
//!
//! ```text
//!   Start by boot --Arm--> Armed(g) --Demand--> Reasserting(g) --Connected--> Up(g)
//!          NotArmed |        ^   ^--- nobody asks any more ---+                 |
//!   Starting(g) <---+        +-------------------- Idle -----------------------+
//!
//!   any --NetworkRule(StayDown)--> Stopping --> StayDown --NetworkRule(Connect)--> as a start by boot
//! ```
//! An idle session is not ended: it waits at the gateway with its addresses, so that what a program sends from them later is
//! not from the wrong ones. Nothing but a packet, or a person, makes a connection for an armed tunnel (invariant L16), and a
//! packet that is held goes out first when there is one (L17).

use std::time::Duration;

use now::Boot;

use crate::life::Life;
use crate::machine::Turn;
use crate::renewing::Renewals;
use crate::{
    Attempt, Effect, EndReason, Generation, How, Machine, Mode, Origin, Proofs, Session, State, Then, Trigger,
};

/// Nothing is dialled any more for traffic that is older: whoever holds packets asks once a second for as long as it holds
/// any, and holds none for longer than 10 s.
pub const DEMAND_LASTS: Duration = Duration::from_secs(15);

/// What the rules of the network that the host is in say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// The tunnel is there: on demand, or always.
    #[default]
    Connect,
    /// It is not: neither session nor routes, until the network changes or a person says otherwise.
    StayDown,
}

impl<P: Proofs> Machine<P> {
    /// Whether the tunnel waits for traffic, from its next start or silence on.
    pub fn set_on_demand(&mut self, on_demand: bool) {
        self.on_demand = on_demand;
        if !on_demand {
            // The connection that is being made is wanted now, whoever asked for it.
            self.asked = None;
        }
    }

    /// Waits for traffic without a connection.
    pub(crate) fn arm(&mut self, g: Generation, session: Session, turn: &mut Turn<P>) {
        self.asked = None;
        self.life = Life::Unverified;
        self.state = State::Armed { g, session };
        turn.push(Effect::Arm { g });
    }

    /// There is no plan to put on the host before the gateway has granted one, or it cannot be put there: as without demand.
    pub(crate) fn not_armed(&mut self, of: Generation, turn: &mut Turn<P>) {
        match self.state {
            State::Armed { g, session } if g == of => match session {
                Session::Over => {
                    let attempt = self.attempt(g, How::Login, Trigger::Boot, turn);
                    self.state = State::Starting { g, attempt };
                }
                Session::Kept => self.leave_armed(g, session, Trigger::Boot, turn),
            },
            State::Armed { .. }
            | State::Idle
            | State::StayDown
            | State::Starting { .. }
            | State::Up { .. }
            | State::Reasserting { .. }
            | State::Stopping { .. }
            | State::Failed(_) => {}
        }
    }

    /// A packet waits for the tunnel.
    pub(crate) fn ask(&mut self, turn: &mut Turn<P>) {
        if let (State::Armed { g, session }, Mode::Awake) = (self.state, self.mode()) {
            self.leave_armed(g, session, Trigger::Demand, turn);
            self.asked = Some(turn.boot);
        }
    }

    /// From Armed to a connection, for whatever reason.
    pub(crate) fn leave_armed(&mut self, g: Generation, session: Session, trigger: Trigger, turn: &mut Turn<P>) {
        let how = match session {
            Session::Kept => How::Cookie,
            Session::Over => How::Login,
        };
        self.asked = None;
        // Nobody was asked before.
        self.life = Life::Unverified;
        self.fell_silent(turn.now);
        self.state = State::Reasserting {
            g,
            attempt: self.attempt(g, how, trigger, turn),
            session,
            lost: turn.now,
        };
    }

    /// A connection that was being made for traffic is not made any more once nobody asks for it. Returns whether that is so.
    pub(crate) fn give_up_unasked(&mut self, turn: &mut Turn<P>) -> bool {
        let State::Reasserting {
            g, attempt, session, ..
        } = self.state
        else {
            return false;
        };
        if !self.on_demand || !self.asked.is_some_and(|asked| is_old(asked, turn.boot)) {
            return false;
        }
        if attempt.is_running() {
            turn.push(Effect::Abort { g });
        }
        self.arm(g, session, turn);
        true
    }

    /// The same after an attempt that failed; one that went on by itself (a login after a refused cookie) goes on.
    pub(crate) fn give_up_waiting(&mut self, turn: &mut Turn<P>) {
        let State::Reasserting {
            attempt: Attempt::Waiting(_, at),
            ..
        } = &mut self.state
        else {
            return;
        };
        if self.asked.is_some() {
            // By then it is known whether anybody still asks.
            *at = (*at).min(turn.now.plus(DEMAND_LASTS));
        }
        self.give_up_unasked(turn);
    }

    /// No program has used the tunnel for as long as was configured.
    pub(crate) fn idle(&mut self, of: Generation, turn: &mut Turn<P>) {
        match self.state {
            State::Up { g, replacement, .. } if g == of && self.on_demand && self.mode() == Mode::Awake => {
                // New keys for a tunnel that nobody uses are of no use.
                if replacement.is_some_and(Attempt::is_running) {
                    turn.push(Effect::Abort { g });
                }
                self.renewals = Renewals::new();
                self.arm(g, Session::Kept, turn);
            }
            State::Up { .. }
            | State::Armed { .. }
            | State::Idle
            | State::StayDown
            | State::Starting { .. }
            | State::Reasserting { .. }
            | State::Stopping { .. }
            | State::Failed(_) => {}
        }
    }

    /// The host is in another network, or its rules are others.
    pub(crate) fn network_rule(&mut self, rule: Rule, turn: &mut Turn<P>) {
        self.rule = rule;
        match (rule, &mut self.state) {
            (
                Rule::StayDown,
                State::Starting { .. } | State::Armed { .. } | State::Up { .. } | State::Reasserting { .. },
            ) => self.bring_down(0, Then::Start(Origin::Boot), EndReason::StayDown, turn),
            (
                Rule::StayDown,
                State::Stopping {
                    then: then @ Then::Start(_),
                    ..
                },
            ) => *then = Then::Start(Origin::Boot),
            (Rule::Connect, State::StayDown) => self.begin(Origin::Boot, turn),
            (Rule::Connect | Rule::StayDown, _) => {}
        }
    }
}

/// Whether nobody asked since.
fn is_old(asked: Boot, now: Boot) -> bool {
    now.since(asked) >= DEMAND_LASTS
}
