//! Everything that needs no server: what the program says, what `simulate` gives, and what pages and formats promise.

mod aml;
mod architecture;
mod cli;
mod dev;
mod diagnostics;
mod docs;
mod formats;
mod gate;
mod layout;
mod lines;
mod mails;
mod origins;
mod own_kinds;
mod reference;
mod several;
mod simulate_joins;
mod simulate_repartition;
mod simulate_schema;
mod simulate_tables;
mod simulate_time;
mod simulate_windows;
mod state_rows;
mod table_sinks;
mod task;
mod values;
