//! `textgen models` and `textgen provider`.

use std::io::Read;

use clap::Subcommand;

use super::entries::{self, Kind};
use super::{Failure, database};
use crate::catalogue::{self, CatalogueFile, Sealer};
use crate::config::Config;
use crate::store::audit::COMMAND_LINE;
use crate::store::catalogue::{self as store, StoredKey};

/// What to do with the catalogue.
#[derive(Subcommand)]
pub enum ModelsCommand {
    /// Replace the catalogue by that of a file; nothing is changed if the file has a mistake
    Apply {
        /// A TOML file, or `-` for standard input
        file: String,
    },
    /// Print the catalogue as a file; API keys are shown as `sealed`
    Export,
    /// List the models with their other names, routes and limits
    List,
    /// Show a model, as it would stand in the catalogue file
    Show {
        /// Its name
        name: String,
    },
    /// Create or change a model; fields that are not named stay. Servers follow at once
    Set {
        /// Its name
        name: String,
        /// Lines as in the catalogue file, such as 'price = {input = "0.15", output = "0.60"}'
        #[arg(required = true, value_name = "FIELD")]
        fields: Vec<String>,
    },
    /// Remove a model
    Remove {
        /// Its name
        name: String,
    },
}

/// What to do with providers.
#[derive(Subcommand)]
pub enum ProviderCommand {
    /// List the providers, with where their API keys are
    List,
    /// Show a provider, as it would stand in the catalogue file
    Show {
        /// Its name
        name: String,
    },
    /// Create or change a provider; fields that are not named stay. Servers follow at once
    Set {
        /// Its name
        name: String,
        /// Lines as in the catalogue file, such as 'api_key = "env:LOCAL_API_KEY"'
        #[arg(required = true, value_name = "FIELD")]
        fields: Vec<String>,
    },
    /// Remove a provider
    Remove {
        /// Its name
        name: String,
    },
}

pub(super) fn run(command: &ModelsCommand, config: &Config) -> Result<String, Failure> {
    match command {
        ModelsCommand::Apply { file } => apply(file, config),
        ModelsCommand::Export => Ok(catalogue::export(&mut database(config)?.session()?)?.to_toml()?),
        ModelsCommand::List => list(config),
        ModelsCommand::Show { name } => entries::show(Kind::Model, name, config),
        ModelsCommand::Set { name, fields } => entries::set(Kind::Model, name, fields, config),
        ModelsCommand::Remove { name } => entries::remove(Kind::Model, name, config),
    }
}

fn apply(path: &str, config: &Config) -> Result<String, Failure> {
    let failed = |e: String| Failure(format!("{path}: {e}"));
    let text = match path {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        path => std::fs::read_to_string(path),
    };
    let file = text.map_err(|e| e.to_string()).and_then(|text| CatalogueFile::parse(&text)).map_err(failed)?;
    let mut session = database(config)?.session()?;
    let applied =
        catalogue::apply(&mut session, file, None, || Sealer::new(config.encryption_key.as_ref()), COMMAND_LINE);
    let applied = applied.map_err(|e| failed(e.to_string()))?;
    let change = match applied {
        catalogue::Applied { changed: false, prices: 0, .. } => "nothing changed".to_owned(),
        catalogue::Applied { prices, .. } => format!("{prices} new prices"),
    };
    Ok(format!("{} models of {} providers, {change}\n", applied.models, applied.providers))
}

fn list(config: &Config) -> Result<String, Failure> {
    let rows = store::read(&mut database(config)?.session()?)?;
    let mut text = format!("{:<32} {:<24} {:>10} ROUTES\n", "MODEL", "ALIASES", "MAX-OUTPUT");
    for model in rows.models {
        let routes = model.routes.iter().map(|route| format!("{}/{}", route.provider, route.upstream_model));
        let routes = routes.collect::<Vec<_>>().join(", ");
        let most = model.max_output_tokens.map_or("-".to_owned(), |most| most.to_string());
        text += &format!("{:<32} {:<24} {most:>10} {routes}\n", model.name, model.aliases.join(", "));
    }
    Ok(text)
}

pub(super) fn run_provider(command: &ProviderCommand, config: &Config) -> Result<String, Failure> {
    match command {
        ProviderCommand::List => list_providers(config),
        ProviderCommand::Show { name } => entries::show(Kind::Provider, name, config),
        ProviderCommand::Set { name, fields } => entries::set(Kind::Provider, name, fields, config),
        ProviderCommand::Remove { name } => entries::remove(Kind::Provider, name, config),
    }
}

fn list_providers(config: &Config) -> Result<String, Failure> {
    let rows = store::read(&mut database(config)?.session()?)?;
    let mut text = format!("{:<24} {:<48} {:<24} PROTOCOLS\n", "PROVIDER", "ADDRESS", "API-KEY");
    for provider in rows.providers {
        let key = match provider.api_key {
            StoredKey::None => "-".to_owned(),
            StoredKey::Variable(name) => format!("env:{name}"),
            StoredKey::Sealed(_) => "sealed".to_owned(),
        };
        let protocols = provider.protocols.join(", ");
        text += &format!("{:<24} {:<48} {key:<24} {protocols}\n", provider.name, provider.base_url);
    }
    Ok(text)
}
