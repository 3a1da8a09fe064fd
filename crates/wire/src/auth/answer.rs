//! How a form becomes a reply.

use thiserror::Error;

use super::{Choice, Field, Form, GROUP_LIST, Input, InputKind, Reply};
use crate::secret::Secret;

/// A form asks for something the caller has no answer to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("gateway asks for `{}`, and no answer was given that fits", crate::text::escape(.name))]
pub struct Unanswered {
    /// Name of the input.
    pub name: String,
}

impl Form {
    /// Answers the form: `pick` is asked for every text, password and select but the group; `group` chooses from the
    /// `group_list` by value or label, and the default is taken if it is `None`. The caller fills in
    /// [`Reply::version`] and [`Reply::device`].
    ///
    /// The reply follows openconnect 9.01: the group goes beside the fields, hidden values go back, buttons do not,
    /// `answer`, `whichpin` and `new_password` are sent as `password`, `verify_pin` and `verify_password` not at all.
    ///
    /// # Errors
    /// [`Unanswered`] for the first input that `pick` has nothing for or nothing that can be chosen, or if there is no
    /// such group.
    pub fn answer(
        &self,
        mut pick: impl FnMut(&Input) -> Option<Secret>,
        group: Option<&str>,
    ) -> Result<Reply, Unanswered> {
        let mut reply = Reply {
            opaque: self.opaque.clone(),
            ..Reply::default()
        };
        for input in &self.inputs {
            let unanswered = || Unanswered {
                name: input.name.clone(),
            };
            let value = match &input.kind {
                InputKind::Submit => continue,
                InputKind::Hidden(value) => value.clone(),
                InputKind::Select { options } if input.name == GROUP_LIST => {
                    let chosen = choose(options, group).ok_or_else(unanswered)?;
                    reply.group_select = Some(chosen.value.clone());
                    continue;
                }
                InputKind::Select { options } => {
                    let picked = pick(input).ok_or_else(unanswered)?;
                    let chosen = choose(options, Some(picked.expose())).ok_or_else(unanswered)?;
                    Secret::from(chosen.value.as_str())
                }
                InputKind::Text | InputKind::Password => match sent_name(&input.name) {
                    Some(_) => pick(input).ok_or_else(unanswered)?,
                    None => continue,
                },
            };
            if let Some(name) = sent_name(&input.name) {
                reply.fields.push(Field {
                    name: name.to_owned(),
                    value,
                });
            }
        }
        Ok(reply)
    }
}

/// The choice of this value, else of this label; the first if nothing is wanted.
fn choose<'a>(options: &'a [Choice], wanted: Option<&str>) -> Option<&'a Choice> {
    let Some(wanted) = wanted else { return options.first() };
    let by_value = options.iter().find(|choice| choice.value == wanted);
    by_value.or_else(|| options.iter().find(|choice| choice.label == wanted))
}

/// The name an input's answer is sent under, `None` if it is not sent.
fn sent_name(name: &str) -> Option<&str> {
    match name {
        "answer" | "whichpin" | "new_password" => Some("password"),
        "verify_pin" | "verify_password" => None,
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(inputs: &[(InputKind, &str)]) -> Form {
        let input = |(kind, name): &(InputKind, &str)| Input {
            kind: kind.clone(),
            name: (*name).into(),
            label: None,
        };
        Form {
            inputs: inputs.iter().map(input).collect(),
            ..Form::default()
        }
    }

    fn select(values: &[&str]) -> InputKind {
        let choice = |value: &&str| Choice {
            value: (*value).into(),
            label: value.to_uppercase(),
        };
        InputKind::Select {
            options: values.iter().map(choice).collect(),
        }
    }

    /// Answers every input with its own name.
    fn name_of(input: &Input) -> Option<Secret> {
        Some(Secret::from(input.name.as_str()))
    }

    fn sent(reply: &Reply) -> Vec<(&str, &str)> {
        reply
            .fields
            .iter()
            .map(|field| (field.name.as_str(), field.value.expose()))
            .collect()
    }

    #[test]
    fn answers_go_back_in_the_order_of_the_form() {
        let form = form(&[
            (InputKind::Text, "username"),
            (InputKind::Hidden("x1".into()), "state"),
            (InputKind::Password, "password"),
            (InputKind::Submit, "Login"),
        ]);
        let reply = form.answer(name_of, None).expect("all answered");
        assert_eq!(
            sent(&reply),
            [("username", "username"), ("state", "x1"), ("password", "password")]
        );
    }

    #[test]
    fn the_names_of_later_rounds_are_all_password() {
        let form = form(&[
            (InputKind::Password, "answer"),
            (InputKind::Text, "whichpin"),
            (InputKind::Password, "new_password"),
            (InputKind::Password, "verify_password"),
            (InputKind::Password, "verify_pin"),
        ]);
        let reply = form.answer(name_of, None).expect("all answered");
        assert_eq!(
            sent(&reply),
            [
                ("password", "answer"),
                ("password", "whichpin"),
                ("password", "new_password")
            ]
        );
    }

    #[test]
    fn the_group_goes_beside_the_fields() {
        let form = form(&[(select(&["all", "staff"]), GROUP_LIST), (InputKind::Text, "username")]);
        let group = |wanted| form.answer(name_of, wanted).map(|reply| reply.group_select);
        assert_eq!(group(None), Ok(Some("all".into())));
        assert_eq!(group(Some("staff")), Ok(Some("staff".into())));
        assert_eq!(group(Some("STAFF")), Ok(Some("staff".into())));
        assert_eq!(
            group(Some("guests")),
            Err(Unanswered {
                name: GROUP_LIST.into()
            })
        );
        assert_eq!(
            sent(&form.answer(name_of, None).expect("answered")),
            [("username", "username")]
        );
    }

    #[test]
    fn another_select_takes_one_of_its_choices() {
        let form = form(&[(select(&["sms", "app"]), "method")]);
        let answer = |value: &str| form.answer(|_| Some(Secret::from(value)), None);
        assert_eq!(sent(&answer("APP").expect("a label")), [("method", "app")]);
        assert_eq!(answer("fax"), Err(Unanswered { name: "method".into() }));
        assert_eq!(form.answer(|_| None, None), Err(Unanswered { name: "method".into() }));
    }

    #[test]
    fn a_question_without_an_answer_is_named() {
        let form = form(&[(InputKind::Text, "username"), (InputKind::Password, "otp\x1b")]);
        let error = form
            .answer(|input| (input.name == "username").then(|| "alice".into()), None)
            .expect_err("no otp");
        assert_eq!(
            error.to_string(),
            "gateway asks for `otp\\u{1b}`, and no answer was given that fits"
        );
    }

    #[test]
    fn the_opaque_element_goes_back() {
        let form = Form {
            opaque: Some("<opaque/>".into()),
            ..form(&[(InputKind::Text, "username")])
        };
        assert_eq!(
            form.answer(name_of, None).expect("answered").opaque.as_deref(),
            Some("<opaque/>")
        );
    }
}
