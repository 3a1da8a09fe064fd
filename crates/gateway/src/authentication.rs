//! The room that knows the users: it is asked, and answers.
//!
//! ```text
//!   connection --Question + where to answer--> queue (bounded) --> one permit per core --> argon2 on a blocking thread
//!              <------------------------------- Answer ---------------------------------------|
//! ```
//! Nothing else holds the users file or sees a password hash, and nothing is shared but messages, so that this room can
//! become a process of its own. A user that does not exist costs the same time as one that does.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::available_parallelism;

use config::users::{User, Users};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{spawn_blocking, spawn_local};
use wire::Secret;

use crate::admission::MAX_WAITING_LOGINS;
use crate::password;

/// May this user come in?
#[derive(Debug)]
pub(crate) struct Question {
    /// Who it says it is.
    pub(crate) user: String,
    /// Its password; `None` if a verified certificate stands for it.
    pub(crate) password: Option<Secret>,
    /// The group it wants.
    pub(crate) group: Option<String>,
}

/// What the room says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Yes, as far as these users say.
    Granted(Admitted),
    /// No: unknown, disabled, wrong password, or not one of its groups. Which one is not said.
    Denied,
    /// Too many are asking.
    Busy,
}

/// Addresses that the users file reserves for a user.
pub(crate) use session::gateway::Reservation;

/// What a yes says, and by which users file: a reload may have replaced that while argon2 was at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) reservation: Reservation,
    users: Option<Arc<Users>>,
}

impl Admitted {
    /// Whether `users` would say the same of `user`: its password, its groups, and that it may come in at all.
    pub(crate) fn still_holds(&self, user: &str, users: Option<&Arc<Users>>) -> bool {
        match (&self.users, users) {
            (Some(asked), Some(current)) => asked.0.get(user) == current.0.get(user),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

struct Request {
    question: Question,
    answer: oneshot::Sender<Answer>,
}

/// Asks the room. Clones ask the same room.
#[derive(Clone)]
pub(crate) struct Authenticator {
    requests: mpsc::Sender<Request>,
    users: tokio::sync::watch::Sender<Option<Arc<Users>>>,
}

impl Authenticator {
    /// Opens the room with these users; `None` admits everybody with a certificate. Needs a `LocalSet`.
    pub(crate) fn start(users: Option<Arc<Users>>) -> Self {
        let (requests, incoming) = mpsc::channel(MAX_WAITING_LOGINS);
        let (sender, receiver) = tokio::sync::watch::channel(users);
        spawn_local(answer_all(incoming, receiver));
        Self {
            requests,
            users: sender,
        }
    }

    /// From the next question on, these are the users.
    pub(crate) fn replace(&self, users: Option<Arc<Users>>) {
        self.users.send_replace(users);
    }

    /// Asks, and waits for the answer. Dropping the future withdraws the question.
    pub(crate) async fn ask(&self, question: Question) -> Answer {
        let (answer, answered) = oneshot::channel();
        match self.requests.try_send(Request { question, answer }) {
            Ok(()) => answered.await.unwrap_or(Answer::Busy),
            Err(_) => Answer::Busy,
        }
    }
}

async fn answer_all(mut requests: mpsc::Receiver<Request>, users: tokio::sync::watch::Receiver<Option<Arc<Users>>>) {
    let cores = available_parallelism().map_or(1, usize::from);
    let permits = Rc::new(Semaphore::new(cores));
    while let Some(request) = requests.recv().await {
        let permit = Rc::clone(&permits);
        // The next question waits in the queue until a core is free for it.
        let Ok(turn) = permits.acquire().await else { return };
        turn.forget();
        if request.answer.is_closed() {
            permit.add_permits(1);
            continue;
        }
        let users = users.borrow().clone();
        spawn_local(async move {
            let answer = answer(request.question, users).await;
            permit.add_permits(1);
            // Whoever asked may be gone.
            let _ = request.answer.send(answer);
        });
    }
}

async fn answer(question: Question, users: Option<Arc<Users>>) -> Answer {
    let Some(users) = users else {
        // Without a users file only certificates come in, and no password can be right.
        return if question.password.is_none() {
            Answer::Granted(Admitted {
                reservation: Reservation::default(),
                users: None,
            })
        } else {
            Answer::Denied
        };
    };
    let user = users.0.get(&question.user);
    let reservation = user.map(|user| Reservation {
        v4: user.ipv4,
        v6: user.ipv6,
    });
    let verified = match question.password {
        None => true,
        Some(secret) => verify(secret, user.and_then(|user| user.password.clone())).await,
    };
    let may_enter = user.is_some_and(|user| may_enter(user, question.group.as_deref()));
    match reservation {
        Some(reservation) if verified && may_enter => Answer::Granted(Admitted {
            reservation,
            users: Some(users),
        }),
        _ => Answer::Denied,
    }
}

/// Whether a user may be here, in that group.
pub(crate) fn may_enter(user: &User, group: Option<&str>) -> bool {
    !user.disabled && group.is_none_or(|group| user.groups.iter().any(|own| own == group))
}

/// Compares with the hash, or without one with a hash of nothing, for the same time.
async fn verify(secret: Secret, hash: Option<String>) -> bool {
    let known = hash.is_some();
    let verdict = spawn_blocking(move || {
        let hash = hash.unwrap_or_else(|| password::dummy().to_owned());
        password::verify(secret.expose(), &hash)
    });
    verdict.await.unwrap_or(false) && known
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::pin::Pin;
    use std::sync::OnceLock;
    use std::task::{Context, Poll, Waker};
    use tokio::task::LocalSet;

    fn users() -> Arc<Users> {
        static HASH: OnceLock<String> = OnceLock::new();
        let hash = HASH.get_or_init(|| password::hash("correct horse").expect("hash"));
        let user = |disabled| User {
            password: Some(hash.clone()),
            groups: vec!["staff".to_owned()],
            ipv4: Some(Ipv4Addr::new(10, 78, 0, 9)),
            ipv6: None,
            disabled,
        };
        let certificate_only = User {
            password: None,
            ..user(false)
        };
        Arc::new(Users(
            [
                ("alice", user(false)),
                ("gone", user(true)),
                ("carol", certificate_only),
            ]
            .map(|(name, user)| (name.to_owned(), user))
            .into(),
        ))
    }

    fn ask(users: Option<Arc<Users>>, user: &str, password: Option<&str>, group: Option<&str>) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let question = Question {
            user: user.to_owned(),
            password: password.map(Secret::from),
            group: group.map(str::to_owned),
        };
        LocalSet::new().block_on(&runtime, async { Authenticator::start(users).ask(question).await })
    }

    fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn granted() -> Answer {
        Answer::Granted(Admitted {
            reservation: Reservation {
                v4: Some(Ipv4Addr::new(10, 78, 0, 9)),
                v6: None,
            },
            users: Some(users()),
        })
    }

    #[test]
    fn the_right_password_comes_in_with_its_reservation() {
        assert_eq!(ask(Some(users()), "alice", Some("correct horse"), None), granted());
        assert_eq!(
            ask(Some(users()), "alice", Some("correct horse"), Some("staff")),
            granted()
        );
    }

    #[test]
    fn who_may_not_come_in_is_denied_alike() {
        for (user, password, group) in [
            ("alice", Some("wrong"), None),
            ("alice", Some("correct horse"), Some("admins")),
            ("nobody", Some("correct horse"), None),
            ("nobody", Some(""), None),
            ("nobody", None, None),
            ("gone", Some("correct horse"), None),
            ("gone", None, None),
            ("carol", Some(""), None),
        ] {
            assert_eq!(
                ask(Some(users()), user, password, group),
                Answer::Denied,
                "{user} {password:?}"
            );
        }
    }

    #[test]
    fn a_certificate_needs_no_password_but_a_user_that_is_there() {
        assert_eq!(ask(Some(users()), "carol", None, None), granted());
        assert_eq!(
            ask(None, "whoever", None, None),
            Answer::Granted(Admitted {
                reservation: Reservation::default(),
                users: None,
            })
        );
        assert_eq!(ask(None, "whoever", Some("x"), None), Answer::Denied);
    }

    #[test]
    fn a_yes_does_not_outlive_a_reload_that_changes_its_user() {
        let before = users();
        let Answer::Granted(admitted) = ask(Some(Arc::clone(&before)), "alice", Some("correct horse"), None) else {
            panic!("alice may come in");
        };
        let after = |change: fn(&mut Users)| {
            let mut users = Users::clone(&before);
            change(&mut users);
            admitted.still_holds("alice", Some(&Arc::new(users)))
        };
        assert!(after(|users| _ = users.0.remove("gone")), "others do not matter");
        assert!(!after(|users| _ = users.0.remove("alice")));
        assert!(!after(|users| users.0.get_mut("alice").expect("alice").disabled = true));
        assert!(!after(|users| users.0.get_mut("alice").expect("alice").password = None));
        assert!(!after(|users| users.0.get_mut("alice").expect("alice").groups.clear()));
        assert!(!admitted.still_holds("alice", None));
    }

    #[test]
    fn more_questions_than_may_wait_are_answered_busy() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        LocalSet::new().block_on(&runtime, async {
            let room = Authenticator::start(Some(users()));
            let question = || Question {
                user: "nobody".to_owned(),
                password: Some("x".into()),
                group: None,
            };
            // None of these is polled to its end: the room gets no turn until we wait.
            let mut waiting = Vec::new();
            for _ in 0..MAX_WAITING_LOGINS {
                let mut asked = Box::pin(room.ask(question()));
                assert!(poll_once(&mut asked).is_pending());
                waiting.push(asked);
            }
            assert_eq!(room.ask(question()).await, Answer::Busy);
            drop(waiting);
            assert_eq!(room.ask(question()).await, Answer::Busy);
        });
    }
}
