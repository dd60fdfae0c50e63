//! `hearthkey user …`: who lives here, and what they may do.

use super::{
    api,
    args::{Role, User, UserAdd, UserPassword},
    client::Client,
    failure::{Exit, Failure},
    output::{Output, facts, printable, table},
    prompt,
    when::Clock,
};
use serde_json::{Value, json};

pub(super) async fn run(command: User, client: &Client, clock: &Clock, out: &mut Output) -> Result<Exit, Failure> {
    match command {
        User::Add(UserAdd { name, role, password_file, no_password }) => {
            let mut body = json!({ "name": name, "role": role.as_str() });
            if !no_password {
                let password = prompt::fresh_password(name.as_str(), password_file.as_deref())?;
                body["password"] = json!(*password);
            }
            let answer = client.post(&["users"], &body).await?;
            out.answer(&answer, |out, user: api::User| {
                let next = if user.has_password {
                    format!("hearthkey login URL --user {}, on their machine", user.name)
                } else {
                    format!("hearthkey user password {}, so that they can log in", user.name)
                };
                out.line(format!("{} is added as {}\n  next: {next}", user.name, user.role))
            })?;
        }
        User::List => render_list(&client.get_all(&["users"], &[]).await?, clock, out)?,
        User::Show(args) => render_one(&client.get(&["users", args.name.as_str()], &[]).await?, clock, out)?,
        User::Role(args) => {
            let name = args.user.name.as_str();
            let answer = client.patch(&["users", name], &json!({ "role": args.role.as_str() })).await?;
            out.done(&answer, format!("{name} is {} now: {}", args.role.as_str(), meaning(args.role)))?;
        }
        User::Password(args) => set_password(args, client, out).await?,
        User::Remove(args) => {
            let name = args.name.as_str();
            client.delete(&["users", name]).await?;
            out.done(&json!({ "name": name, "removed": true }), format!("{name} is removed, and their tokens have ended"))?;
        }
    }
    Ok(Exit::Done)
}

const fn meaning(role: Role) -> &'static str {
    match role {
        Role::Owner => "they may do everything",
        Role::Member => "they see everything and send commands",
        Role::Viewer => "they see everything",
    }
}

async fn set_password(args: UserPassword, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let file = args.password_file.as_deref();
    match &args.name {
        Some(name) => {
            // Whether there is such a user is known before anybody types a password twice.
            client.get(&["users", name.as_str()], &[]).await?;
            let password = prompt::fresh_password(name.as_str(), file)?;
            let answer = client.patch(&["users", name.as_str()], &json!({ "password": *password })).await?;
            out.done(&answer, format!("{name} has a new password"))
        }
        None => {
            let password = prompt::fresh_password("yours", file)?;
            client.put(&["me", "password"], &json!({ "password": *password })).await?;
            out.done(&json!({ "changed": true }), "you have a new password")
        }
    }
}

fn render_list(answer: &Value, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, users: api::Items<api::User>| {
        let mut rows = table(["NAME", "ROLE", "PASSWORD", "ADDED"]);
        for user in &users.items {
            rows.add_row([user.name.clone(), printable(&user.role), has_password(user), clock.relative(user.created_at)]);
        }
        out.table(rows)
    })
}

fn render_one(answer: &Value, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, user: api::User| {
        out.table(facts([
            ("name", user.name.clone()),
            ("role", printable(&user.role)),
            ("password", has_password(&user)),
            ("added", clock.full(user.created_at)),
        ]))
    })
}

fn has_password(user: &api::User) -> String {
    if user.has_password { "yes" } else { "none" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;

    const NOW: u64 = 1_780_000_000;

    #[test]
    fn people_are_listed_with_role_and_whether_they_can_log_in() {
        let answer = json!({"items": [
            {"name": "ann", "role": "owner", "created_at": NOW - 600, "has_password": true},
            {"name": "cron", "role": "member", "created_at": NOW - 60, "has_password": false}]});
        let (mut out, printed) = Output::captured(Format::Table);
        render_list(&answer, &Clock::standing(NOW), &mut out).expect("rendered");
        let text = printed.text();
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
        assert_eq!(rows[0], ["NAME", "ROLE", "PASSWORD", "ADDED"]);
        assert_eq!(rows[1], ["ann", "owner", "yes", "10 min ago"]);
        assert_eq!(rows[2], ["cron", "member", "none", "60 s ago"]);
        let (mut out, printed) = Output::captured(Format::Json);
        render_list(&answer, &Clock::standing(NOW), &mut out).expect("rendered");
        assert_eq!(serde_json::from_str::<Value>(&printed.text()).expect("JSON"), answer);
    }
}
