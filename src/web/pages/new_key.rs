//! A new key, whose secret is shown once, with calls to paste.

use serde_json::json;

use super::program_address;
use crate::auth::{Caller, Digest};
use crate::call::{Call, Role};
use crate::catalogue::Purpose;
use crate::db;
use crate::error::Result;
use crate::http::{Response, cookie};
use crate::store::api_keys;

/// A new key, whose secret is shown only once.
pub(super) struct NewKey {
    pub(super) name: String,
    pub(super) secret: String,
    /// A chat with it, as commands and as programs.
    pub(super) curl: String,
    pub(super) python: String,
    pub(super) javascript: String,
}

impl NewKey {
    /// The key that this person has just created, from the cookie that the form's reply set. `models` are those that the
    /// caller may call.
    pub(super) fn from_cookie(
        call: &Call<'_>,
        session: &mut db::Session,
        caller: &Caller,
        models: &[String],
    ) -> Result<Option<NewKey>> {
        let Some(secret) = cookie::read(call.request, cookie::NEW_SECRET) else { return Ok(None) };
        let found = api_keys::by_digest(session, &Digest::of(secret).0)?;
        let Some(found) = found.filter(|found| found.user.id == caller.user.id) else { return Ok(None) };
        let names = api_keys::names(session, &caller.user.id)?;
        let name = names.into_iter().find(|(id, _)| *id == found.id).map(|(_, name)| name).unwrap_or_default();
        let base = format!("{}/v1", program_address(call, Role::Inference));
        // The demo answers to any name.
        let model = models.first().map_or("demo", String::as_str);
        let body = json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
        let (model, text) = (json!(model), body.to_string());
        Ok(Some(NewKey {
            name,
            secret: secret.to_owned(),
            curl: format!(
                "export SECRET={secret}\ncurl {base}/chat/completions \\\n  -H \"Authorization: Bearer $SECRET\" \
                 -H \"Content-Type: application/json\" \\\n  -d '{}'",
                text.replace('\'', "'\\''")
            ),
            python: format!(
                "# pip install openai\nimport os\nfrom openai import OpenAI\n\n\
                 client = OpenAI(base_url=\"{base}\", api_key=os.environ[\"SECRET\"])\n\
                 reply = client.chat.completions.create(\n    model={model},\n    \
                 messages=[{{\"role\": \"user\", \"content\": \"Hello\"}}],\n)\n\
                 print(reply.choices[0].message.content)"
            ),
            javascript: format!(
                "const reply = await fetch(\"{base}/chat/completions\", {{\n  method: \"POST\",\n  headers: {{ \
                 Authorization: `Bearer ${{process.env.SECRET}}`, \"Content-Type\": \"application/json\" }},\n  \
                 body: JSON.stringify({text}),\n}});\n\
                 console.log((await reply.json()).choices[0].message.content);"
            ),
        }))
    }

    /// The names of the models that the caller may call. A model server may respond slowly, so it is to be called before
    /// a connection is taken.
    pub(super) fn models(call: &Call<'_>, caller: &Caller) -> Vec<String> {
        let mut models = call.app.models.names(Purpose::Text).unwrap_or_default();
        models.retain(|name| caller.may_call(name));
        models
    }

    /// The page that shows it: the cookie is deleted.
    pub(super) fn forget(call: &Call<'_>, shown: Response, path: &'static str) -> Response {
        match cookie::read(call.request, cookie::NEW_SECRET) {
            Some(_) => cookie::clear_new_secret(shown, path, call.app.config.is_https()),
            None => shown,
        }
    }
}
