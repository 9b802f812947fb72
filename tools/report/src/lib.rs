//! Results of measurements: their files, tables and pictures.
