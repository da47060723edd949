mod json;
mod strategic;
