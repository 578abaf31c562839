package source

func watchedFile(env *Env, path string) bool { return false }
