//! What tunnels tell the session room, which is on the main thread.
//!
//! ```text
//!   tunnel --say()--> its pen, while the desk is full --settle()--> desk, bounded --> SessionRoom::heard()
//! ```
//! Nothing of it may be lost, and nobody waits in the middle of something: a tunnel whose words do not fit goes on when they do.

use std::collections::VecDeque;

use session::Traffic;
use session::gateway::SessionId;
use session::park::{ParkKind, Via};
use tokio::sync::mpsc;

use crate::sessions::{Left, Report};

/// Notices that wait for the room, which takes them at once.
const NOTICES: usize = 1024;

/// What the tunnel of one connection says.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) session: SessionId,
    pub(crate) epoch: u64,
    pub(crate) news: News,
}

/// See [`crate::sessions::SessionRoom`], which has a function for each.
#[derive(Debug)]
pub(crate) enum News {
    Report(Report),
    ControlLost(String),
    Parked(ParkKind),
    Stirred {
        is_new: bool,
    },
    Unparked(Via),
    /// The tunnel is over, with what it carried.
    Left(Traffic, Left),
}

/// Where notices arrive.
pub(crate) type Desk = mpsc::Sender<Notice>;

/// A desk, and what is put on it.
pub(crate) fn desk() -> (Desk, mpsc::Receiver<Notice>) {
    mpsc::channel(NOTICES)
}

/// What one tunnel writes with.
#[derive(Debug)]
pub(crate) struct Pen {
    desk: Desk,
    session: SessionId,
    epoch: u64,
    /// What did not fit. A tunnel handles nothing more before that has gone, so it is at most what a client can cause in one turn.
    unsaid: VecDeque<Notice>,
}

impl Pen {
    pub(crate) fn new(desk: Desk, session: SessionId, epoch: u64) -> Self {
        Self {
            desk,
            session,
            epoch,
            unsaid: VecDeque::new(),
        }
    }

    /// Says something, at once or with the next [`Pen::settle`].
    pub(crate) fn say(&mut self, news: News) {
        let notice = Notice {
            session: self.session,
            epoch: self.epoch,
            news,
        };
        if !self.unsaid.is_empty() {
            return self.unsaid.push_back(notice);
        }
        match self.desk.try_send(notice) {
            // A room that is gone wants to hear nothing.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(notice)) => self.unsaid.push_back(notice),
        }
    }

    /// Waits until everything was said. Cancel safe.
    pub(crate) async fn settle(&mut self) {
        while !self.unsaid.is_empty() {
            match self.desk.reserve().await {
                Ok(place) => {
                    if let Some(notice) = self.unsaid.pop_front() {
                        place.send(notice);
                    }
                }
                Err(_) => self.unsaid.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_said_later_and_in_order() {
        let (desk, mut notices) = desk();
        let mut pen = Pen::new(desk, SessionId([1; 16]), 1);
        for n in 0..NOTICES + 2 {
            pen.say(News::ControlLost(n.to_string()));
        }
        let mut heard = 0;
        tokio::select! {
            () = pen.settle() => panic!("it does not fit"),
            notice = notices.recv() => heard += usize::from(notice.is_some()),
        }
        let hear = async {
            while heard < NOTICES + 2 {
                let Some(Notice {
                    news: News::ControlLost(why),
                    ..
                }) = notices.recv().await
                else {
                    panic!("something else");
                };
                assert_eq!(why, heard.to_string());
                heard += 1;
            }
        };
        tokio::join!(pen.settle(), hear);
    }
}
