mod apply;
mod json;
mod strategic;
mod update;
