try:
    from mnist_cnn.cli.main import main_and_exit
except KeyboardInterrupt:  # before there is anybody to word it
    raise SystemExit(130) from None

main_and_exit()
