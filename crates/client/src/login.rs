//! The login: answers the gateway's forms from the configuration or by asking, over as many connections as it takes.

use std::collections::HashMap;

use session::client::{Asking, AuthError, Authenticated, Authenticating, Step};
use tracing::{debug, info};
use wire::Secret;
use wire::auth::{GROUP_LIST, Input, InputKind};

use crate::ClientError;
use crate::caller::Caller;
use crate::secrets::{ask, can_ask};

/// Logs in. A gateway that does not understand the XML dialogue is offered the legacy form, on a new connection.
pub(crate) async fn log_in(caller: &mut Caller) -> Result<Authenticated, ClientError> {
    let identity = caller.setup().identity.clone();
    match dialogue(caller, Authenticating::start(&identity)).await {
        Err(ClientError::Login(AuthError::NotUnderstood { status })) if status < 500 => {
            debug!(
                status,
                "the gateway does not speak the xml dialogue; trying the legacy form"
            );
            caller.hang_up();
            dialogue(caller, Authenticating::start_legacy(&identity)).await
        }
        result => result,
    }
}

async fn dialogue(caller: &mut Caller, begin: (Authenticating, Vec<u8>)) -> Result<Authenticated, ClientError> {
    let (mut phase, mut request) = begin;
    loop {
        let response = caller.ask(&request).await?;
        (phase, request) = match phase.reply(&response.head, &response.body)? {
            Step::Done(authenticated) => return Ok(authenticated),
            Step::Again(phase, request) => {
                caller.hang_up();
                (phase, request)
            }
            Step::Ask(asking) => {
                let mut answers = answers(caller, &asking).await?;
                asking.answer(|input| answers.remove(&input.name))?
            }
        };
    }
}

/// An answer for every input of a form that there is one for.
async fn answers(caller: &Caller, asking: &Asking) -> Result<HashMap<String, Secret>, ClientError> {
    let login = &caller.setup().config.login;
    let fixed = caller.setup().secrets.password(login)?;
    let message = asking.message();
    if asking.asked_before() && fixed.is_some() {
        let message = message.unwrap_or_else(|| "it asks for the password again".to_owned());
        return Err(AuthError::Rejected { message }.into());
    }
    let mut answers = HashMap::new();
    let mut shown = false;
    for input in &asking.form().inputs {
        let answer = match &input.kind {
            InputKind::Hidden(_) | InputKind::Submit => None,
            InputKind::Select { .. } if input.name == GROUP_LIST => None,
            InputKind::Select { options } => options.first().map(|option| Secret::from(option.value.as_str())),
            InputKind::Text if is_user(&input.name) && login.user.is_some() => login.user.as_deref().map(Secret::from),
            InputKind::Password if fixed.is_some() => fixed.clone(),
            InputKind::Text | InputKind::Password if !can_ask() => None,
            InputKind::Text | InputKind::Password => {
                if let Some(message) = message.as_deref().filter(|_| !shown) {
                    info!(message, "the gateway asks");
                    shown = true;
                }
                Some(ask(label(input), input.kind == InputKind::Password).await?)
            }
        };
        if let Some(answer) = answer {
            answers.insert(input.name.clone(), answer);
        }
    }
    Ok(answers)
}

/// Names that gateways give to the field for the user's name.
fn is_user(name: &str) -> bool {
    ["username", "user", "uname", "user_name"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

fn label(input: &Input) -> &str {
    match input.label.as_deref() {
        Some(label) if !label.trim().is_empty() => label,
        _ => &input.name,
    }
}
