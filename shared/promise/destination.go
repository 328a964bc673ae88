package promise

// CheckDestinationName fails with CodeInvalidName unless name can be a destination's:
// 1 to 63 letters in lower case, digits and hyphens, with no hyphen at either end.
// Two other names are valid, stepFunctions and durableExecution. They name the
// destination of a target that gives its kind alone.
func CheckDestinationName(name string) error {
	if !label.MatchString(name) && !DestinationKind(name).TakesToken() {
		return Fail(CodeInvalidName, "A destination's name must have 1 to 63 lower-case letters, digits and hyphens, and no hyphen at either end.")
	}
	return nil
}
