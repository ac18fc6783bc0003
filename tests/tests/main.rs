//! What Fanfare promises, one story each, told with the real program.

mod backfill;
mod backup;
mod bad_input;
mod bad_plugins;
mod command_line;
mod crash;
mod dead_letters;
mod events;
mod filters;
mod grants;
mod import;
mod journey;
mod lifecycle;
mod limits;
mod live;
mod pause;
mod placing;
mod retention;
mod retries;
mod running;
mod stock;
mod store;
mod stuck;
mod timeline;
mod upgrade;
