//! The two ends against each other, over bytes, without a socket: login, CONNECT, frames.

use std::sync::Arc;
use std::time::Duration;

use now::Now;
use session::client::{self, Authenticated, Authenticating, ConnectError, Identity, Step, Wants};
use session::gateway::{
    Claim, ConnectRefused, CookieHash, Established, Front, FrontOutput, FrontPolicy, Leases, Limits, Login,
    Reservation, SessionId, Sessions, Shown, Standing, TokenHash, Verdict,
};
use session::{EndReason, Output, Received};
use wire::Secret;
use wire::auth::{Input, InputKind};
use wire::cstp::Frame;
use wire::http::{ResponseHead, parse_request, parse_response};
use wire::offer::{Grant, Logout, MarmotSession, Refusal};

const PASSWORD: &str = "correct horse";

fn policy() -> FrontPolicy {
    FrontPolicy {
        password: true,
        certificate: true,
        title: "Please log in.".to_owned(),
        ..FrontPolicy::default()
    }
}

fn identity() -> Identity {
    Identity {
        host: "gw.test".to_owned(),
        path: "/".to_owned(),
        user_agent: "marmot/0".to_owned(),
        device: "linux-64".to_owned(),
        version: "0".to_owned(),
        ..Identity::default()
    }
}

/// A gateway with one user, alice, without a socket.
struct Gateway {
    policy: Arc<FrontPolicy>,
    sessions: Sessions,
    logins: u8,
    verified: Vec<(String, Option<String>)>,
}

impl Gateway {
    fn new(policy: FrontPolicy) -> Self {
        let limits = Limits {
            sessions: 8,
            per_user: 4,
            cookie_lifetime: Duration::from_secs(900),
            session_timeout: None,
            park_ttl: None,
            quiet: Duration::from_secs(60),
            parked_per_user: 2,
        };
        let pool = "10.78.0.0/24".parse().expect("net");
        Self {
            policy: Arc::new(policy),
            sessions: Sessions::new(limits, Leases::new(Some(pool), None, Duration::from_secs(600))),
            logins: 0,
            verified: Vec::new(),
        }
    }

    fn front(&self, certificate_user: Option<&str>) -> Front {
        Front::new(self.policy.clone(), certificate_user.map(str::to_owned))
    }

    /// Answers one request and says whether the connection stays open.
    fn answer(&mut self, front: &mut Front, request: &[u8]) -> (ResponseHead, Vec<u8>, bool) {
        let (head, length) = parse_request(request, 16_384).expect("http").expect("whole head");
        let mut output = front.request(&head, &request[length..]);
        loop {
            output = match output {
                FrontOutput::Reply { message, close } => {
                    let (head, length) = parse_response(&message, 16_384).expect("http").expect("whole head");
                    return (head, message[length..].to_vec(), close);
                }
                FrontOutput::Verify { user, password, group } => {
                    let right = user == "alice" && password.expose() == PASSWORD;
                    self.verified.push((user, group));
                    front.verdict(if right { Verdict::Granted } else { Verdict::Denied })
                }
                FrontOutput::Login { user, .. } => {
                    self.logins += 1;
                    let cookie = CookieHash([self.logins; 32]);
                    let id = SessionId([self.logins; 16]);
                    let login = Login {
                        user: &user,
                        group: None,
                        certified: false,
                        reserved: Reservation::default(),
                        id,
                        cookie,
                    };
                    let ended = self.sessions.login(&login, Now::default());
                    front.logged_in(ended.map(|_| Secret::new(format!("cookie-{}", self.logins))))
                }
                FrontOutput::Logout(logout) => {
                    let id = SessionId::parse(&logout.session.id).expect("an id");
                    let token = hash(&logout.token);
                    let outcome = self.sessions.logout(id, logout.session.epoch, &token, Now::default());
                    front.logged_out(if outcome.is_ok() {
                        Verdict::Granted
                    } else {
                        Verdict::Denied
                    })
                }
                FrontOutput::Connect(offer) => {
                    let message = self.connect(offer.cookie.expose());
                    FrontOutput::Reply { message, close: false }
                }
            };
        }
    }

    fn connect(&mut self, cookie: &str) -> Vec<u8> {
        let number = cookie
            .strip_prefix("cookie-")
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        let claim = Claim {
            shown: Shown::Cookie(CookieHash([number; 32])),
            families: (true, false),
            key: None,
            proof: None,
            certificate_user: None,
        };
        let welcome = |_: &str, _: Option<&str>| Standing::Good(Reservation::default());
        match self.sessions.connect(&claim, welcome, Now::default()) {
            Ok(connected) => {
                let token = Secret::new(format!("{:032x}", connected.epoch));
                assert!(self.sessions.allow_logout(connected.id, connected.epoch, hash(&token)));
                Grant {
                    v4: connected
                        .lease
                        .v4
                        .map(|address| ipnet::Ipv4Net::new(address, 24).expect("prefix")),
                    mtu: 1400,
                    dpd: Some(Duration::from_secs(90)),
                    session: Some(MarmotSession {
                        id: connected.id.to_string(),
                        epoch: connected.epoch,
                    }),
                    logout: Some(token),
                    ..Grant::default()
                }
                .encode()
            }
            Err(ConnectRefused::UnknownCookie) => Refusal::Cookie.encode(),
            Err(refused) => Refusal::Unavailable(Some(refused.to_string())).encode(),
        }
    }
}

/// Stands for SHA-256, which this crate does not have.
fn hash(token: &Secret) -> TokenHash {
    TokenHash(token.expose().as_bytes().try_into().expect("32 characters"))
}

fn alice(password: &'static str) -> impl FnMut(&Input) -> Option<Secret> {
    move |input| match input.kind {
        InputKind::Text => Some(Secret::new("alice".to_owned())),
        InputKind::Password => Some(Secret::new(password.to_owned())),
        InputKind::Hidden(_) | InputKind::Submit | InputKind::Select { .. } => None,
    }
}

/// Logs in over as many connections as requests: `fresh` opens a new one each time.
fn login(
    gateway: &mut Gateway,
    identity: &Identity,
    legacy: bool,
    fresh: bool,
    certificate_user: Option<&str>,
) -> Result<Authenticated, client::AuthError> {
    let (mut dialogue, mut request) = if legacy {
        Authenticating::start_legacy(identity)
    } else {
        Authenticating::start(identity)
    };
    let mut front = gateway.front(certificate_user);
    loop {
        if fresh {
            front = gateway.front(certificate_user);
        }
        let (head, body, _) = gateway.answer(&mut front, &request);
        match dialogue.reply(&head, &body)? {
            Step::Done(authenticated) => return Ok(authenticated),
            Step::Again(next, again) => (dialogue, request) = (next, again),
            Step::Ask(asking) => (dialogue, request) = asking.answer(alice(PASSWORD))?,
        }
    }
}

fn connect(gateway: &mut Gateway, authenticated: &Authenticated) -> Result<client::Established, ConnectError> {
    let wants = Wants {
        v4: true,
        v6: false,
        base_mtu: Some(1500),
        previous: Vec::new(),
        datagrams: false,
        ecn: false,
    };
    let (requesting, request) = authenticated.request(&identity(), &wants, None);
    let mut front = gateway.front(None);
    let (head, _, _) = gateway.answer(&mut front, &request);
    requesting.reply(&head, Now::default())
}

#[test]
fn password_login_works_over_one_connection_and_over_many() {
    for fresh in [false, true] {
        let mut gateway = Gateway::new(policy());
        let authenticated = login(&mut gateway, &identity(), false, fresh, None).expect("login");
        let established = connect(&mut gateway, &authenticated).expect("tunnel");
        assert_eq!(established.session().map(|session| session.epoch), Some(1));
        assert_eq!(established.grant().mtu, 1400);
    }
}

#[test]
fn the_legacy_form_logs_in_too() {
    let mut gateway = Gateway::new(policy());
    let authenticated = login(&mut gateway, &identity(), true, true, None).expect("login");
    assert!(connect(&mut gateway, &authenticated).is_ok());
}

#[test]
fn a_certificate_alone_needs_no_form() {
    let mut gateway = Gateway::new(FrontPolicy {
        password: false,
        ..policy()
    });
    login(&mut gateway, &identity(), false, false, Some("alice")).expect("login");
    assert!(gateway.verified.is_empty(), "no password was asked for");
    let refused = login(&mut gateway, &identity(), false, false, None).map(|_| ());
    assert_eq!(refused, Err(client::AuthError::CertificateWanted));
}

#[test]
fn both_together_want_the_same_name() {
    let both = FrontPolicy {
        require_both: true,
        ..policy()
    };
    let mut gateway = Gateway::new(both);
    login(&mut gateway, &identity(), false, true, Some("alice")).expect("login");
    assert!(
        login(&mut gateway, &identity(), false, true, None).is_err(),
        "password alone"
    );
    let mut front = gateway.front(Some("bob"));
    let (dialogue, request) = Authenticating::start(&identity());
    let (head, body, _) = gateway.answer(&mut front, &request);
    let Ok(Step::Ask(asking)) = dialogue.reply(&head, &body) else {
        panic!("no form")
    };
    let (dialogue, request) = asking.answer(alice(PASSWORD)).expect("answer");
    let (head, body, _) = gateway.answer(&mut front, &request);
    let Ok(Step::Ask(again)) = dialogue.reply(&head, &body) else {
        panic!("bob's certificate, alice's password")
    };
    assert!(again.asked_before());
}

#[test]
fn a_wrong_password_is_asked_again_and_then_refused() {
    let mut gateway = Gateway::new(policy());
    let mut front = gateway.front(None);
    let (mut dialogue, mut request) = Authenticating::start(&identity());
    let mut asked = 0;
    let refused = loop {
        let (head, body, close) = gateway.answer(&mut front, &request);
        match dialogue.reply(&head, &body) {
            Ok(Step::Ask(asking)) => {
                assert_eq!(asking.asked_before(), asked > 0);
                assert_eq!(
                    asking.message().is_some_and(|message| message == "Login failed."),
                    asked > 0
                );
                asked += 1;
                (dialogue, request) = asking.answer(alice("wrong")).expect("answer");
            }
            Ok(_) => panic!("logged in with a wrong password"),
            Err(error) => {
                assert!(close, "the connection is closed with the refusal");
                break error;
            }
        }
    };
    assert_eq!(asked, 3);
    assert_eq!(
        refused,
        client::AuthError::Rejected {
            message: "Login failed".to_owned()
        }
    );
}

#[test]
fn the_chosen_group_reaches_the_password_check() {
    let groups = vec!["staff".to_owned(), "guests & friends".to_owned()];
    let mut gateway = Gateway::new(FrontPolicy { groups, ..policy() });
    login(&mut gateway, &identity(), false, false, None).expect("login");
    let guest = Identity {
        group: Some("guests & friends".to_owned()),
        ..identity()
    };
    login(&mut gateway, &guest, false, false, None).expect("login");
    login(&mut gateway, &guest, true, false, None).expect("legacy login");
    let groups: Vec<_> = gateway
        .verified
        .iter()
        .map(|(_, group)| group.as_deref().unwrap_or("none"))
        .collect();
    assert_eq!(groups, ["staff", "guests & friends", "guests & friends"]);
}

#[test]
fn a_field_without_an_answer_is_named() {
    let mut gateway = Gateway::new(policy());
    let mut front = gateway.front(None);
    let (dialogue, request) = Authenticating::start(&identity());
    let (head, body, _) = gateway.answer(&mut front, &request);
    let Ok(Step::Ask(asking)) = dialogue.reply(&head, &body) else {
        panic!("no form")
    };
    let unanswered = asking.answer(|_| None).map(|_| ());
    assert_eq!(
        unanswered,
        Err(client::AuthError::Unanswered {
            field: "username".to_owned()
        })
    );
}

#[test]
fn a_dead_cookie_means_log_in_anew() {
    let mut gateway = Gateway::new(policy());
    let stranger = Authenticated::from_cookie(Secret::new("cookie-9".to_owned()));
    assert_eq!(
        connect(&mut gateway, &stranger).map(|_| ()),
        Err(ConnectError::CookieRefused)
    );
}

#[test]
fn a_reconnect_keeps_the_address_and_raises_the_epoch() {
    let mut gateway = Gateway::new(policy());
    let authenticated = login(&mut gateway, &identity(), false, true, None).expect("login");
    let first = connect(&mut gateway, &authenticated).expect("tunnel");
    let second = connect(&mut gateway, &authenticated).expect("take-over");
    assert_eq!(first.grant().v4, second.grant().v4);
    assert_eq!(second.session().map(|session| session.epoch), Some(2));
}

#[test]
fn packets_and_the_goodbye_pass_between_the_ends() {
    let mut gateway = Gateway::new(policy());
    let authenticated = login(&mut gateway, &identity(), false, true, None).expect("login");
    let mut client = connect(&mut gateway, &authenticated).expect("tunnel");
    let lease = *gateway.sessions.iter().next().expect("session").1.lease();
    let mut server = Established::new(lease, 1400, None, Now::default());

    let mut packet = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(lease.v4.expect("lease").octets());
    packet.extend([10, 77, 0, 1]);
    client.outgoing(&packet, Now::default()).expect("our own packet");
    let frame = Frame {
        kind: wire::cstp::Kind::Data,
        payload: packet[..].into(),
    };
    assert_eq!(server.received(&frame, Now::default()), Received::Packet);

    let (kind, payload) = client::Established::goodbye();
    server.received(
        &Frame {
            kind,
            payload: payload[..].into(),
        },
        Now::default(),
    );
    assert_eq!(server.poll(), Some(Output::Ended(EndReason::UserStop)));
}

#[test]
fn credentials_never_follow_a_redirect() {
    for location in ["https://evil.test/", "https://gw.test.evil.test/", "//evil.test/"] {
        let (dialogue, _) = Authenticating::start(&identity());
        let text = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let (head, _) = parse_response(text.as_bytes(), 16_384).expect("http").expect("whole");
        let refused = dialogue.reply(&head, b"").map(|_| ());
        assert_eq!(
            refused,
            Err(client::AuthError::Redirect {
                to: location.to_owned()
            })
        );
    }
}

#[test]
fn a_form_that_names_another_host_gets_nothing() {
    let mut gateway = Gateway::new(policy());
    let mut front = gateway.front(None);
    let (dialogue, request) = Authenticating::start(&identity());
    let (head, body, _) = gateway.answer(&mut front, &request);
    let body = String::from_utf8(body)
        .expect("utf-8")
        .replace("\"/auth\"", "\"https://evil.test/auth\"");
    let Ok(Step::Ask(asking)) = dialogue.reply(&head, body.as_bytes()) else {
        panic!("no form")
    };
    let refused = asking.answer(alice(PASSWORD)).map(|_| ());
    assert!(
        matches!(refused, Err(client::AuthError::Redirect { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_client_that_could_not_say_goodbye_logs_out_later_and_only_its_own_epoch() {
    let mut gateway = Gateway::new(FrontPolicy {
        password: true,
        ..FrontPolicy::default()
    });
    let authenticated = login(&mut gateway, &identity(), false, false, None).expect("login");
    let logout_of = |established: &client::Established| Logout {
        session: established.session().expect("our gateway").clone(),
        token: established.grant().logout.clone().expect("a token"),
    };
    let first = logout_of(&connect(&mut gateway, &authenticated).expect("tunnel"));
    let second = logout_of(&connect(&mut gateway, &authenticated).expect("tunnel"));
    let wrong = Logout {
        token: first.token.clone(),
        ..second.clone()
    };
    for (logout, status, left) in [(&first, 204, 1), (&wrong, 403, 1), (&second, 204, 0), (&second, 204, 0)] {
        let request = logout.encode("vpn.example.com", "test");
        let mut front = gateway.front(None);
        let (head, body, close) = gateway.answer(&mut front, &request);
        assert_eq!((head.status, body.len(), close), (status, 0, true));
        assert_eq!(gateway.sessions.iter().count(), left);
    }
}
