package main

func main() { panic("unfinished") }
