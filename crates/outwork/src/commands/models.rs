//! `outwork models`

use anyhow::Result;
use outwork_client::Query;

use super::{print_list, print_one, text, when};
use crate::cli::resources::ModelsCommand;
use crate::config::process_environment;
use crate::connection;
use crate::exit::Exit;
use crate::terminal::Look;

pub(crate) async fn models(command: ModelsCommand, look: Look) -> Result<Exit> {
    match command {
        ModelsCommand::List(common) => {
            let client = connection::client(&common.connection, &process_environment)?;
            let items = client.models().list(Query::new()).collect(1000).await?;
            print_list(&items, common.output.json, &look, &["ID", "NAME", "CREATED"], |item| {
                vec![
                    text(item, "/id"),
                    text(item, "/display_name"),
                    when(item, "/created_at"),
                ]
            })
        }
        ModelsCommand::Show(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            print_one(&client.models().get(&one.id).await?, one.common.output.json, &look)
        }
    }
}
