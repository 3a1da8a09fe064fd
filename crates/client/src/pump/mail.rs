//! What pump and shell tell each other, of which nothing that matters is lost: neither waits for the other, and what finds no
//! room stays with who says it until there is some. Of what says the same, the last is kept, so that this is bounded too.

use std::collections::VecDeque;
use std::mem::discriminant;

use lifecycle::Mode;
use now::{Gap, GapKind};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::sleep::Command;
use crate::datapath::News;

/// Gaps that the shell has not heard of yet. What comes beyond is told as one.
const MAX_GAPS: usize = 4;

/// News that the shell has not heard of yet. It has its turn after every [`super::TURNS`]. What comes beyond waits, one of each
/// kind.
const MAX_NEWS: usize = 64;

/// The pump's end of what it tells.
pub(super) struct Outbox {
    gaps: mpsc::Sender<Gap>,
    gap: Option<Gap>,
    news: mpsc::Sender<News>,
    waiting: VecDeque<News>,
}

/// The shell's end.
pub(super) struct Inbox {
    pub(super) gaps: mpsc::Receiver<Gap>,
    pub(super) news: mpsc::Receiver<News>,
}

pub(super) fn mail() -> (Outbox, Inbox) {
    let (gaps, heard_gaps) = mpsc::channel(MAX_GAPS);
    let (news, heard_news) = mpsc::channel(MAX_NEWS);
    let outbox = Outbox {
        gaps,
        gap: None,
        news,
        waiting: VecDeque::new(),
    };
    let inbox = Inbox {
        gaps: heard_gaps,
        news: heard_news,
    };
    (outbox, inbox)
}

impl Outbox {
    pub(super) fn tell(&mut self, news: News) {
        self.waiting.retain(|other| discriminant(other) != discriminant(&news));
        self.waiting.push_back(news);
        self.flush();
    }

    pub(super) fn tell_gap(&mut self, gap: Gap) {
        self.gap = Some(match self.gap.take() {
            Some(before) => joined(before, gap),
            None => gap,
        });
        self.flush();
    }

    /// Hands over what there is room for.
    pub(super) fn flush(&mut self) {
        if let Some(gap) = self.gap.take()
            && let Err(TrySendError::Full(gap)) = self.gaps.try_send(gap)
        {
            self.gap = Some(gap);
        }
        while let Some(first) = self.waiting.pop_front() {
            if let Err(TrySendError::Full(first)) = self.news.try_send(first) {
                self.waiting.push_front(first);
                return;
            }
        }
    }

    /// Waits until there is room for something that waits for it. Cancel safe.
    pub(super) async fn room(&self) {
        tokio::select! {
            Ok(_) = self.gaps.reserve(), if self.gap.is_some() => {}
            Ok(_) = self.news.reserve(), if !self.waiting.is_empty() => {}
            else => std::future::pending().await,
        }
    }

    /// What found no room until the end.
    pub(super) fn rest(self) -> (Option<Gap>, Vec<News>) {
        (self.gap, self.waiting.into())
    }
}

impl Inbox {
    /// What nobody has heard yet, and what found no room.
    pub(super) fn rest(mut self, (gap, waiting): (Option<Gap>, Vec<News>)) -> (Option<Gap>, Vec<News>) {
        let gaps = std::iter::from_fn(|| self.gaps.try_recv().ok()).chain(gap);
        let gap = gaps.reduce(joined);
        let news = std::iter::from_fn(|| self.news.try_recv().ok()).chain(waiting);
        (gap, news.collect())
    }
}

/// Two gaps as one: no verdict counts the time of either, and whoever slept in one of them slept.
fn joined(before: Gap, after: Gap) -> Gap {
    let kind = match (before.kind, after.kind) {
        (GapKind::Freeze, GapKind::Freeze) => GapKind::Freeze,
        (GapKind::Sleep, _) | (_, GapKind::Sleep) => GapKind::Sleep,
    };
    Gap {
        length: before.length + after.length,
        awake: before.awake + after.awake,
        kind,
    }
}

/// What the shell wants of a running pump, all of it that still matters: a word takes the place of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) mode: Mode,
    /// The last word that still counts, and its number.
    pub(super) word: Option<(Word, u32)>,
    number: u32,
    /// How often the network around has changed.
    pub(super) looks: u32,
    /// How often the way to the gateway has, by what this host cannot see in its own address.
    pub(super) detours: u32,
}

/// What is to be said to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The host is about to sleep.
    Park,
    /// Somebody is there.
    Woke,
}

impl Wanted {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            word: None,
            number: 0,
            looks: 0,
            detours: 0,
        }
    }

    /// Takes a command. A wake is over when the host sleeps again, and a sleep when somebody is there.
    pub(super) fn take(&mut self, command: Command) {
        match command {
            Command::Park => self.say(Word::Park),
            Command::Woke => {
                self.mode = Mode::Awake;
                self.say(Word::Woke);
            }
            Command::Mode(mode) => {
                self.mode = mode;
                let over = match mode {
                    Mode::Awake => Word::Park,
                    Mode::Asleep | Mode::Maintenance | Mode::Unsure => Word::Woke,
                };
                self.word = self.word.filter(|(word, _)| *word != over);
            }
            Command::Look => self.looks = self.looks.wrapping_add(1),
            Command::Detour => self.detours = self.detours.wrapping_add(1),
        }
    }

    fn say(&mut self, word: Word) {
        self.number = self.number.wrapping_add(1);
        self.word = Some((word, self.number));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lifecycle::LossKind;

    use super::*;

    #[tokio::test]
    async fn what_the_machine_depends_on_arrives_however_full_the_queue_is() {
        let (mut outbox, mut inbox) = mail();
        for _ in 0..200 {
            outbox.tell(News::Alive);
            outbox.tell(News::Silent);
        }
        outbox.tell(News::Demand);
        outbox.tell(News::ControlLost(LossKind::Reset, "reset".to_owned()));
        outbox.tell(News::PathChange);
        assert!(outbox.waiting.len() <= 5, "one of each kind: {:?}", outbox.waiting);
        let mut heard = Vec::new();
        while heard.last() != Some(&News::PathChange) {
            heard.push(inbox.news.recv().await.expect("the pump lives"));
            outbox.room().await;
            outbox.flush();
            if outbox.waiting.is_empty() {
                heard.extend(std::iter::from_fn(|| inbox.news.try_recv().ok()));
            }
        }
        let last = &heard[heard.len() - 5..];
        assert_eq!(last[..3], [News::Alive, News::Silent, News::Demand]);
        assert!(matches!(last[3], News::ControlLost(LossKind::Reset, _)), "{last:?}");
    }

    #[tokio::test]
    async fn gaps_beyond_the_queue_are_told_as_one() {
        let (mut outbox, inbox) = mail();
        let gap = |seconds, kind| Gap {
            length: Duration::from_secs(seconds),
            awake: Duration::ZERO,
            kind,
        };
        for _ in 0..9 {
            outbox.tell_gap(gap(10, GapKind::Freeze));
        }
        outbox.tell_gap(gap(60, GapKind::Sleep));
        let (rest, news) = inbox.rest(outbox.rest());
        assert_eq!((rest, news.len()), (Some(gap(150, GapKind::Sleep)), 0));
    }

    #[tokio::test]
    async fn who_has_nothing_to_say_or_nobody_to_say_it_to_waits() {
        let (mut outbox, inbox) = mail();
        let waits = |outbox: &Outbox| futures_are_pending(outbox);
        assert!(waits(&outbox));
        for _ in 0..65 {
            outbox.tell(News::Demand);
        }
        assert!(waits(&outbox), "there is no room");
        drop(inbox);
        assert!(waits(&outbox), "a shell that is gone");
    }

    fn futures_are_pending(outbox: &Outbox) -> bool {
        let room = std::pin::pin!(outbox.room());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        room.poll(&mut context).is_pending()
    }

    #[test]
    fn a_look_takes_no_words_place() {
        let mut wanted = Wanted::new(Mode::Awake);
        for command in [Command::Look, Command::Park, Command::Look, Command::Detour] {
            wanted.take(command);
        }
        assert_eq!((wanted.looks, wanted.detours), (2, 1));
        assert_eq!(wanted.word.map(|(word, _)| word), Some(Word::Park));
    }

    #[test]
    fn a_word_that_is_over_is_not_said_and_one_that_counts_is_never_lost() {
        let wanted = |commands: &[Command]| {
            let mut wanted = Wanted::new(Mode::Awake);
            commands.iter().for_each(|command| wanted.take(*command));
            (wanted.word.map(|(word, _)| word), wanted.mode)
        };
        let (asleep, awake) = (Command::Mode(Mode::Asleep), Command::Mode(Mode::Awake));
        let dark = Command::Mode(Mode::Maintenance);
        assert_eq!(wanted(&[Command::Park, asleep]), (Some(Word::Park), Mode::Asleep));
        assert_eq!(
            wanted(&[Command::Park, asleep, dark]),
            (Some(Word::Park), Mode::Maintenance)
        );
        assert_eq!(wanted(&[Command::Park, asleep, awake]), (None, Mode::Awake));
        assert_eq!(
            wanted(&[Command::Park, asleep, awake, Command::Woke]),
            (Some(Word::Woke), Mode::Awake)
        );
        assert_eq!(wanted(&[awake, Command::Woke, dark]), (None, Mode::Maintenance));
        assert_eq!(
            wanted(&[awake, Command::Woke, Command::Park, asleep]),
            (Some(Word::Park), Mode::Asleep)
        );
        let mut many = Wanted::new(Mode::Awake);
        for _ in 0..1000 {
            many.take(dark);
            many.take(awake);
        }
        many.take(Command::Woke);
        assert_eq!(many.word.map(|(word, _)| word), Some(Word::Woke));
    }
}
