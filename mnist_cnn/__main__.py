try:
    from mnist_cnn.cli.main import main_and_exit
except KeyboardInterrupt:  # Ctrl-C while the command line is still being imported
    raise SystemExit(130) from None

main_and_exit()
