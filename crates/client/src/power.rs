//! The host's sleep, as the shell hears of it: what the operating system says and what can be read of the host, in the words
//! of the machine. The machine decides what they mean.
//!
//! ```text
//!   PowerSource --- a word ---------------------> PowerWord --> Machine --> AckSleep --> the host may sleep
//!               --- a look: at the start, before a gap is
//!                   handed over, before a word of a source
//!                   that is new, and every 5 s while the
//!                   host is not known to be awake -------> PowerWord::Surroundings
//! ```

use std::time::Duration;

use config::client::ClientConfig;
use lifecycle::{Mode, PowerWord, Source, Surroundings};
use platform::power::{self, PowerEvent, PowerSource, Promise};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

/// Nothing tells that a maintenance wake has become a full one, so that it is looked up: a lid that a person opened is noticed
/// while the person still reaches for the keys.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The source of words about sleep, and what the machine was told of it.
pub(crate) struct Power {
    source: PowerSource,
    /// What the machine thinks that the source can be relied on for.
    told: Promise,
    looked: Option<Instant>,
    /// A word that waits for a look, without which the machine would misunderstand it.
    heard: Option<PowerEvent>,
}

impl Power {
    pub(crate) fn new(source: PowerSource) -> Self {
        Self {
            source,
            told: Promise::None,
            looked: None,
            heard: None,
        }
    }

    /// The source of this host, unless the configuration wants none.
    pub(crate) fn of_this_host(config: &ClientConfig) -> Self {
        Self::new(match config.sleep.power_source {
            config::PowerSource::Auto => power::open(),
            config::PowerSource::Off => PowerSource::none(),
        })
    }

    /// The next word for the machine, which may run what `mode` says. Cancel safe.
    pub(crate) async fn next(&mut self, mode: Mode) -> PowerWord {
        let look_at = match self.looked {
            None => Some(Instant::now()),
            Some(looked) if self.must_look(mode) => Some(looked + LOOK_EVERY),
            Some(_) => None,
        };
        if self.heard.is_none() {
            tokio::select! {
                biased;
                () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => return self.look().await,
                word = self.source.next() => self.heard = Some(word),
            }
        }
        if self.told != self.source.promise() {
            return self.look().await;
        }
        match self.heard.take() {
            Some(event) => {
                info!(word = ?event, "the host speaks of sleep");
                word(event)
            }
            None => self.look().await,
        }
    }

    /// What can be read of the host now; takes [`power::LOOK_TIMEOUT`] at most. Cancel safe.
    pub(crate) async fn look(&mut self) -> PowerWord {
        let surroundings = self.source.surroundings().await;
        debug!(?surroundings, "looked around");
        self.told = surroundings.promise;
        self.looked = Some(Instant::now());
        PowerWord::Surroundings(Surroundings {
            source: source(surroundings.promise),
            preparing: surroundings.preparing,
            lid_closed: surroundings.lid_closed,
            docked: surroundings.docked,
        })
    }

    /// Nothing runs any more that the sleep would break off.
    pub(crate) fn acknowledge_sleep(&self) {
        self.source.acknowledge_sleep();
    }

    fn must_look(&self, mode: Mode) -> bool {
        match mode {
            Mode::Awake => false,
            Mode::Asleep | Mode::Maintenance | Mode::Unsure => self.source.promise() == Promise::Facts,
        }
    }
}

fn word(event: PowerEvent) -> PowerWord {
    match event {
        PowerEvent::Sleeping => PowerWord::Sleeping,
        PowerEvent::Resumed => PowerWord::Resumed,
        PowerEvent::UserPresent => PowerWord::UserPresent,
    }
}

fn source(promise: Promise) -> Source {
    match promise {
        Promise::None => Source::None,
        Promise::Facts => Source::Facts,
        Promise::Presence => Source::Presence,
    }
}

#[cfg(test)]
mod tests {
    use platform::power::Feed;
    use tokio::time::timeout;

    use super::*;
    use crate::testing::{Behaviour, PATIENCE, Pki, StubGateway, client_config};
    use crate::{Client, MemoryDevice, Place};

    fn facts(preparing: bool) -> power::Surroundings {
        power::Surroundings {
            promise: Promise::Facts,
            preparing: Some(preparing),
            ..power::Surroundings::default()
        }
    }

    fn read(preparing: bool) -> PowerWord {
        PowerWord::Surroundings(Surroundings {
            source: Source::Facts,
            preparing: Some(preparing),
            ..Surroundings::default()
        })
    }

    /// A room that knows its source, as after the first look.
    async fn room() -> (Feed, Power) {
        let (feed, source) = PowerSource::fed();
        feed.know(facts(false));
        let mut power = Power::new(source);
        assert_eq!(power.next(Mode::Awake).await, read(false));
        (feed, power)
    }

    #[tokio::test]
    async fn the_first_look_is_at_once_and_words_are_passed_on() {
        let (feed, mut power) = room().await;
        for (said, heard) in [
            (PowerEvent::Sleeping, PowerWord::Sleeping),
            (PowerEvent::Sleeping, PowerWord::Sleeping),
            (PowerEvent::Resumed, PowerWord::Resumed),
            (PowerEvent::UserPresent, PowerWord::UserPresent),
        ] {
            assert!(feed.say(said));
            assert_eq!(power.next(Mode::Awake).await, heard);
        }
    }

    #[tokio::test]
    async fn a_source_that_was_found_later_is_looked_at_before_its_first_word() {
        let (feed, source) = PowerSource::fed();
        let mut power = Power::new(source);
        let nothing = PowerWord::Surroundings(Surroundings::default());
        assert_eq!(power.next(Mode::Awake).await, nothing);
        feed.know(facts(true));
        assert!(feed.say(PowerEvent::Sleeping));
        assert_eq!(power.next(Mode::Awake).await, read(true));
        assert_eq!(power.next(Mode::Awake).await, PowerWord::Sleeping);
        drop(feed);
        assert_eq!(power.look().await, nothing);
    }

    #[tokio::test]
    async fn only_who_is_not_awake_looks_again_and_only_where_there_is_something_to_read() {
        let (feed, mut power) = room().await;
        let long_ago = |power: &mut Power| power.looked = Instant::now().checked_sub(LOOK_EVERY);
        for mode in [Mode::Asleep, Mode::Maintenance, Mode::Unsure] {
            long_ago(&mut power);
            assert_eq!(power.next(mode).await, read(false));
        }
        assert!(timeout(Duration::ZERO, power.next(Mode::Maintenance)).await.is_err());
        long_ago(&mut power);
        assert!(timeout(Duration::ZERO, power.next(Mode::Awake)).await.is_err());
        drop(feed);
        assert!(timeout(Duration::ZERO, power.next(Mode::Unsure)).await.is_err());
    }

    #[tokio::test]
    async fn a_sleep_that_the_host_announces_is_acknowledged() {
        let pki = Pki::new("vpn.test");
        let gateway = StubGateway::start(&pki, Behaviour::default()).await;
        pki.write("password", "right\n", 0o600);
        let toml = format!(
            "[gateway]\nurl = \"https://vpn.test:{}\"\naddresses = [\"127.0.0.1\"]\n\
             [login]\nuser = \"alice\"\npassword_file = \"password\"\n",
            gateway.port
        );
        let (device, _host) = MemoryDevice::pair(4);
        let config = client_config(&pki, &toml);
        let (provider, mut client) = Client::open(config, "client.toml".into(), Place::Memory(device))
            .await
            .expect("opens");
        let (mut feed, source) = PowerSource::fed();
        feed.know(facts(false));
        client.shell.power = Power::new(source);
        let client = tokio::spawn(client.run());
        let mut status = provider.watch();
        let up = status.wait_for(|status| status.state == "up");
        timeout(PATIENCE, up).await.expect("in time").expect("up");

        for _ in 0..2 {
            assert!(feed.say(PowerEvent::Sleeping));
            timeout(PATIENCE, feed.acknowledgement()).await.expect("acknowledged");
            assert!(feed.say(PowerEvent::Resumed));
        }
        provider
            .stop(lifecycle::StopReason::User, true)
            .await
            .expect("answered");
        client.await.expect("no panic").expect("no error");
    }
}
