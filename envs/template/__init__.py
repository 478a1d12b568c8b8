"""What `envs.new` writes, kept as files that run: `my_env` and `MyEnv` become the names that are asked for."""
